"""Noise schedules, inputs and sampling, against closed forms and diffusers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lib_transfer.errors import CancelledError
from lib_transfer.models import Inputs, Schedule, TorchModel, sample
from lib_transfer.models.sampling import runs
from lib_transfer.models.schedule import shift_at
from lib_transfer.progress import Silent


def test_the_schedule_is_that_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers", reason="the tools are not in this environment")
    theirs = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    ours = Schedule.stable_diffusion()
    x, noise = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    times = torch.tensor([0.0, 0.4, 1.0])
    torch.testing.assert_close(ours.noised(x, noise, times), theirs.add_noise(x, noise, ours.steps(times)))
    velocity = theirs.get_velocity(x, noise, ours.steps(times))
    said = Schedule.stable_diffusion("velocity").as_noise(velocity, ours.noised(x, noise, times), times)
    torch.testing.assert_close(said, noise, rtol=1e-4, atol=1e-4)


def test_a_flow_is_noise_minus_picture() -> None:
    schedule = Schedule(None, "flow")
    x, noise, times = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2), torch.tensor([0.3, 0.8])
    torch.testing.assert_close(schedule.as_noise(noise - x, schedule.noised(x, noise, times), times), noise)
    assert torch.equal(schedule.steps(times), times)


def test_a_shifted_flow_is_that_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers", reason="the tools are not in this environment")
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = Schedule(None, "picture", 3.0)
    places = torch.tensor([100, 700])
    times = 1 - places / 1000
    sigmas = ours.steps(times)
    torch.testing.assert_close(sigmas, theirs.sigmas[places])
    x, noise = torch.randn(2, 16, 2, 2), torch.randn(2, 16, 2, 2)
    noised = ours.noised(x, noise, times)
    torch.testing.assert_close(noised, theirs.scale_noise(x, theirs.timesteps[places], noise))
    torch.testing.assert_close(ours.as_noise(x, noised, times), noise, rtol=1e-4, atol=1e-4)
    assert shift_at(float(times[0]), float(sigmas[0])) == pytest.approx(3, rel=1e-4)


def test_flows_are_sampled_by_eulers_method() -> None:
    schedule = Schedule(None, "picture", 3.0)

    def picture(x: Tensor, sigmas: Tensor, prompts: Sequence[str]) -> Tensor:
        return 0.3 * x + sigmas.reshape(-1, 1, 1, 1)

    made = sample(TorchModel({}, picture, schedule, (16, 4, 4), guidance=1), ["a"], 1, Silent(), steps=6)
    x = torch.randn((1, 16, 4, 4), generator=torch.Generator().manual_seed(1)).double()
    times = torch.linspace(0.999, 0.02, 7).double()
    sigmas = 3 * times / (1 + 2 * times)
    for now, then in itertools.pairwise(sigmas):
        velocity = (x - (0.3 * x + now)) / now
        before, x = x, x + (then - now) * velocity
    # The last picture that the model saw in the noise.
    torch.testing.assert_close(made.double(), 0.3 * before + sigmas[-2], rtol=1e-3, atol=1e-3)


class Gaussian:
    """The exact noise prediction for pictures that are normal with mean 2 and deviation 0.5."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.asked = schedule, 0

    def __call__(self, x: Tensor, steps: Tensor, prompts: Sequence[str]) -> Tensor:
        self.asked += 1
        times = steps / 999 if self.schedule.alphas_cumprod is not None else steps
        a, s = self.schedule.mix(times)
        return s * (x - a * 2.0) / (a * a * 0.25 + s * s)


def test_sampling_gives_what_the_model_knows() -> None:
    schedule = Schedule.stable_diffusion()
    network = Gaussian(schedule)
    model = TorchModel({}, network, schedule, (4, 16, 16))
    made = sample(model, ["a", "b"], 1, Silent(), steps=60)
    assert made.shape == (2, 4, 16, 16)
    assert network.asked == runs(2, 60) == 240
    # It begins with noise around 0, where the schedule still has 7 % of the picture.
    assert abs(float(made.mean()) - 2) < 0.08
    assert abs(float(made.std()) - 0.5) < 0.05
    assert torch.equal(made, sample(model, ["a", "b"], 1, Silent(), steps=60))
    assert not torch.equal(made, sample(model, ["a", "b"], 2, Silent(), steps=60))


def test_sampling_stops_before_the_next_run() -> None:
    schedule = Schedule.stable_diffusion()
    network = Gaussian(schedule)

    class Third(Silent):
        def cancelled(self) -> bool:
            return network.asked >= 3

    with pytest.raises(CancelledError):
        sample(TorchModel({}, network, schedule, (4, 4, 4)), ["a"], 1, Third(), guidance=1)
    assert network.asked == 3


def test_one_input_after_the_other() -> None:
    clean = torch.randn(4, 4, 2, 2)
    inputs = Inputs(clean, torch.randn_like(clean), torch.linspace(0.2, 0.8, 4), tuple("abcd"))
    third = list(inputs)[2]
    assert (len(third), third.prompts) == (1, ("c",))
    assert torch.equal(third.clean, clean[2:3])
    assert torch.equal(third.times, inputs.times[2:3])
