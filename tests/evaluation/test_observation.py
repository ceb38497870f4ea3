"""What is seen of the source, and how it comes to the target."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lib_transfer.errors import NumericError
from lib_transfer.evaluation.movement import predictions
from lib_transfer.evaluation.observation import in_latents_of, observe, with_adapter
from lib_transfer.evaluation.streams import Streams
from lib_transfer.models import Schedule, TorchModel, applied, sample
from lib_transfer.progress import Silent
from tests.evaluation import nets
from tests.evaluation.test_reconstruction import WIDTH, original

SAID = ["one", "two", "three", "one", "two", "three"]


def test_half_of_the_inputs_are_made_with_the_adapter_and_all_say_how_the_source_moves() -> None:
    network = nets.Network(WIDTH)
    model, given = nets.model(network), original(network, 0.4)
    found = observe(model, given, SAID[:4], 5, "", Silent(), steps=3)
    assert found.pictures is None
    assert found.inputs.prompts == ("one", "two", "three", "one")
    plain = sample(model, ["two", "three"], 7, Silent(), steps=3)
    with applied(model.places, given):
        styled = sample(model, ["one", "one"], 5, Silent(), steps=3)
    torch.testing.assert_close(found.inputs.clean[[1, 2]], plain)
    torch.testing.assert_close(found.inputs.clean[[0, 3]], styled)
    without = predictions(model, found.inputs, Silent(), "")
    torch.testing.assert_close(found.missed, without - found.inputs.noise)
    torch.testing.assert_close(found.movement, predictions(model, found.inputs, Silent(), "", given) - without)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_both_kinds_are_in_every_part(step: int) -> None:
    for begin in range(step):
        kinds = [with_adapter(place) for place in range(begin, 32, step)]
        assert abs(2 * sum(kinds) - len(kinds)) <= 2, begin
    # Prompts that are taken in turn meet both.
    assert {(place % 4, with_adapter(place)) for place in range(8)} == {(n, w) for n in range(4) for w in (True, False)}


def other(network: nets.Network, matrix: Tensor, side: int) -> TorchModel:
    """A model whose latents are ``matrix`` times a picture's channels, at its own size."""

    def encode(pictures: Tensor) -> Tensor:
        assert pictures.shape[2:] == (side, side)
        return torch.einsum("tc,nchw->nthw", matrix, pictures)

    return TorchModel(
        {}, network, Schedule.stable_diffusion(), (matrix.shape[0], side, side), latent_space="other", encode=encode
    )


@pytest.mark.parametrize("side", [8, 16])
def test_movements_are_carried_into_other_latents(side: int) -> None:
    network = nets.Network(WIDTH)
    model, given = nets.model(network), original(network)
    torch.manual_seed(0)
    matrix = torch.randn(5, 4)
    seen = observe(model, given, SAID, 0, "other", Silent(), steps=2)
    assert seen.pictures is not None
    here = in_latents_of(seen, other(network, matrix, side))

    def carried(values: Tensor) -> Tensor:
        large = torch.nn.functional.interpolate(values, (side, side), mode="bilinear", align_corners=False)
        return torch.einsum("tc,nchw->nthw", matrix, large)

    torch.testing.assert_close(here.inputs.clean, carried(seen.inputs.clean), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(here.movement, carried(seen.movement), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(here.missed, carried(seen.missed), rtol=1e-2, atol=1e-2)
    assert here.inputs.prompts == seen.inputs.prompts
    assert torch.equal(here.inputs.times, seen.inputs.times)
    assert here.inputs.noise.std() == pytest.approx(1, abs=0.05)


def test_streams_are_kept_and_the_movement_is_the_same(tmp_path: object) -> None:
    network = nets.Network(WIDTH)
    model, given = nets.model(network), original(network)
    streams = Streams(tmp_path, nets.SHAPE)  # type: ignore[arg-type]
    watched = observe(model, given, SAID[:3], 1, "", Silent(), steps=2, streams=streams)
    plain = observe(model, given, SAID[:3], 1, "", Silent(), steps=2)
    torch.testing.assert_close(watched.movement, plain.movement)
    torch.testing.assert_close(watched.missed, plain.missed)
    assert set(streams.get(2, "moved")) == set(model.blocks)


def test_latents_that_are_no_numbers_are_said() -> None:
    network = nets.Network(WIDTH)
    seen = observe(nets.model(network), original(network), SAID[:2], 0, "other", Silent(), steps=2)
    with pytest.raises(NumericError, match="The target's latents hold NaN"):
        in_latents_of(seen, other(network, torch.full((4, 4), float("nan")), 8))
