"""What holds for every method in the registry, and what each one promises or is known to lose."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_transfer import methods
from lib_transfer.errors import RequestError
from lib_transfer.linalg.factors import Factors
from lib_transfer.methods import METHODS, Method, get
from lib_transfer.methods.declaration import Parameter

from ..linalg.weights import matrix, relative
from .bases import KERNELS, RANK, dense, problem, product, update_of, weights

every = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.id)
WITH_SUBSPACES = [m for m in METHODS if "subspaces" in m.needs]
K = 10


@pytest.fixture(params=KERNELS)
def relatives(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor]:
    return weights(request.param, "wide", 0.3, torch.float16)


def shape_of(w: torch.Tensor) -> tuple[int, int]:
    return w.shape[0], math.prod(w.shape[1:])


@every
def test_nothing_in_nothing_out(method: Method, relatives: tuple[torch.Tensor, torch.Tensor]) -> None:
    out, into = shape_of(relatives[0])
    for nothing in (
        Factors(torch.zeros(out, 2), torch.zeros(2, into)),
        Factors(torch.zeros(out, 2), torch.ones(2, into)),
    ):
        assert not product(method.transfer(problem(*relatives, K, nothing))).any()


@every
def test_linear_in_the_update(method: Method, relatives: tuple[torch.Tensor, torch.Tensor]) -> None:
    shape = shape_of(relatives[0])
    a, b = update_of(shape, seed=1), update_of(shape, seed=20)
    both = Factors(torch.cat([a.up * 3, b.up * -0.5], dim=1), torch.cat([a.down, b.down], dim=0))
    of_a, of_b, of_both = (product(method.transfer(problem(*relatives, K, u))) for u in (a, b, both))
    assert relative(of_both, 3 * of_a - 0.5 * of_b) < 1e-5


@every
def test_the_shape_stays_and_the_rank_is_bounded(method: Method, relatives: tuple[torch.Tensor, torch.Tensor]) -> None:
    got = method.transfer(problem(*relatives, K))
    assert got.shape == shape_of(relatives[0])
    assert got.rank == (2 * RANK if method.id == "prolora" else RANK)
    assert got.up.dtype == got.down.dtype == torch.float32


@every
def test_the_same_problem_gives_the_same_bytes_and_leaves_its_update_alone(
    method: Method, relatives: tuple[torch.Tensor, torch.Tensor]
) -> None:
    asked = problem(*relatives, K)
    before = [t.clone() for t in asked.update]
    first, second = method.transfer(asked), method.transfer(asked)
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(before, asked.update, strict=True))


@pytest.mark.parametrize("method", ["rotation", "reuse"])
def test_between_equal_weights_the_update_comes_back(method: str, relatives: tuple[torch.Tensor, torch.Tensor]) -> None:
    asked = problem(relatives[0], relatives[0], K)
    assert relative(product(get(method).transfer(asked)), product(asked.update)) < 1e-5


def test_prolora_is_not_the_identity_between_equal_weights_and_loses_the_mixed_blocks(
    relatives: tuple[torch.Tensor, torch.Tensor],
) -> None:
    asked = problem(relatives[0], relatives[0], K)
    m = dense(asked)
    mixed = (
        m.p_s @ m.d @ (torch.eye(len(m.q_s)).double() - m.q_s) + (torch.eye(len(m.p_s)).double() - m.p_s) @ m.d @ m.q_s
    )
    got = product(get("prolora").transfer(asked))
    assert relative(got, m.d) > 0.1
    assert relative(m.d - got, mixed) < 1e-4
    lost = float(m.d.square().sum() - got.square().sum())
    assert lost == pytest.approx(float(mixed.square().sum()), rel=1e-4)


def test_lora_x_stays_within_the_subspaces_of_the_target(relatives: tuple[torch.Tensor, torch.Tensor]) -> None:
    asked = problem(*relatives, K)
    m = dense(asked)
    got = product(get("lora-x").transfer(asked))
    assert relative(m.p_t @ got @ m.q_t, got) < 1e-5
    assert relative(m.p_s @ got @ m.q_s, got) > 1e-2


def test_rotation_keeps_every_singular_value(relatives: tuple[torch.Tensor, torch.Tensor]) -> None:
    asked = problem(*relatives, K)
    before, after = (torch.linalg.svdvals(product(u))[:RANK] for u in (asked.update, get("rotation").transfer(asked)))
    assert torch.allclose(before, after, rtol=1e-5)


@pytest.mark.parametrize("by", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("kernel", KERNELS)
def test_rotation_there_and_back_returns_the_update(kernel: str, by: float) -> None:
    source, target = weights(kernel, "wide", by, torch.float16)
    there = get("rotation").transfer(problem(source, target, K))
    back = get("rotation").transfer(problem(target, source, K, there))
    assert relative(product(back), product(update_of(shape_of(source)))) < 1e-4


@pytest.mark.parametrize("method", WITH_SUBSPACES, ids=lambda m: m.id)
def test_the_bases_within_a_subspace_do_not_matter(method: Method) -> None:
    """Signs of singular vectors are a solver's choice: no method but the forced map may depend on them."""
    source, target = weights("linear", "tall", 0.3, torch.float32)
    flipped = torch.diag(torch.tensor([1.0, -1.0] * 18))
    one = problem(source, target, K)
    other = problem(source @ flipped, target @ flipped, K, Factors(one.update.up, one.update.down @ flipped))
    assert relative(product(method.transfer(other)) @ flipped.double(), product(method.transfer(one))) < 1e-5


@pytest.mark.parametrize("method", WITH_SUBSPACES, ids=lambda m: m.id)
@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_size_of_the_weights_does_not_matter(method: Method, factor: float) -> None:
    source, target = weights("linear", "square", 0.3, torch.float32)
    got = method.transfer(problem(source * factor, target / factor, K))
    assert relative(product(got), product(method.transfer(problem(source, target, K)))) < 1e-4


# ---- what a method declares ----


@every
def test_the_declaration_is_complete_and_its_defaults_are_allowed(method: Method) -> None:
    assert get(method.id) is method
    assert not {m.id for m in METHODS} & methods.FORMER_IDS.keys()
    assert all((method.title, method.paper, method.summary, method.formula))
    names = [p.name for p in methods.parameters(method)]
    assert len(names) == len(set(names))
    chosen = methods.settings(method, {})
    assert list(chosen) == names
    for parameter in methods.parameters(method):
        assert parameter.help
        if parameter.default is not None:
            assert methods.settings(method, {parameter.name: parameter.default})[parameter.name] == parameter.default
    assert (method.maps_dimensions is not None) == ("force" in names)
    assert ("subspaces" in method.needs) == ("energy" in names)


def test_the_former_word_for_reuse_is_still_understood() -> None:
    assert get("copy") is get("reuse")


def test_the_defaults_are_those_that_are_documented() -> None:
    assert methods.DEFAULT == "rotation"
    common = {"strength": 1.0, "rank": "same", "dtype": None, "inserted": "empty"}
    subspaces = {"energy": 0.99, "subspace_rank": None, "threshold": 0.8, "below": "drop"}
    assert methods.settings(get("rotation"), {}) == {**subspaces, **common}
    assert methods.settings(get("lora-x"), {}) == {**subspaces, "force": False, **common}
    assert methods.settings(get("reuse"), {}) == common
    runs = {"runs": 5000, "prompts": "", "size": 0, "clip_skip": 0, "noise_seed": 0}
    assert methods.settings(get("auto"), {}) == {**runs, **common}


GOOD = [
    ("energy", 1, 1.0),
    ("energy", "0.5", 0.5),
    ("subspace_rank", 320, 320),
    ("subspace_rank", "320", 320),
    ("subspace_rank", 4.0, 4),
    ("threshold", 0, 0.0),
    ("below", "copy", "copy"),
    ("strength", -16, -16.0),
    ("rank", "full", "full"),
    ("rank", "64", 64),
    ("dtype", "bf16", "bf16"),
    ("force", True, True),
]
BAD = [
    ("energy", 0),
    ("energy", 1.0001),
    ("energy", math.nan),
    ("energy", "much"),
    ("energy", True),
    ("subspace_rank", 0),
    ("subspace_rank", 2.5),
    ("subspace_rank", math.inf),
    ("threshold", -0.1),
    ("threshold", 1.1),
    ("below", "keep"),
    ("below", 1),
    ("strength", 16.1),
    ("strength", math.inf),
    ("rank", 0),
    ("rank", "half"),
    ("rank", 4097),
    ("rank", 10**400),
    ("dtype", "fp8"),
    ("force", "yes"),
    ("force", 1),
]


@pytest.mark.parametrize(("name", "value", "result"), GOOD)
def test_settings_take_their_type(name: str, value: object, result: object) -> None:
    got = methods.settings(get("lora-x"), {name: value})[name]  # type: ignore[dict-item]
    assert got == result
    assert type(got) is type(result)


@pytest.mark.parametrize(("name", "value"), BAD)
def test_settings_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(RequestError, match=name.replace("_", " ")) as caught:
        methods.settings(get("lora-x"), {name: value})  # type: ignore[dict-item]
    assert repr(value) in caught.value.message


def test_unknown_names_are_refused_with_a_suggestion() -> None:
    with pytest.raises(RequestError, match='no setting "enrgy"') as caught:
        methods.settings(get("rotation"), {"enrgy": 0.5})
    assert "energy" in caught.value.hint
    with pytest.raises(RequestError, match='no setting "energy"'):
        methods.settings(get("reuse"), {"energy": 0.5})
    with pytest.raises(RequestError, match='no method "protora"') as caught:
        get("protora")
    assert '"prolora"' in caught.value.hint
    with pytest.raises(RequestError) as caught:
        get("###")
    assert all(m.id in caught.value.hint for m in METHODS)


def test_energy_and_a_fixed_rank_exclude_each_other() -> None:
    with pytest.raises(RequestError, match="Both"):
        methods.settings(get("rotation"), {"energy": 0.9, "subspace_rank": 8})
    fixed = methods.settings(get("rotation"), {"subspace_rank": 8, "energy": None})
    assert (fixed["energy"], fixed["subspace_rank"]) == (None, 8)
    assert methods.settings(get("rotation"), {"energy": 0.9, "subspace_rank": None})["energy"] == 0.9


PARAMETERS = {p.name: p for m in METHODS for p in methods.parameters(m)}
anything = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))


@settings(max_examples=300)
@given(parameter=st.sampled_from(sorted(PARAMETERS)), value=anything)
def test_a_setting_is_of_its_kind_and_in_range_or_refused(parameter: str, value: object) -> None:
    declared: Parameter = PARAMETERS[parameter]
    try:
        got = methods.checked(declared, value)  # type: ignore[arg-type]
    except RequestError:
        return
    if declared.kind == "text":
        assert got == got.strip()  # type: ignore[union-attr]
    elif isinstance(got, str):
        assert got in declared.choices
    elif isinstance(got, bool):
        assert declared.kind == "flag"
    else:
        assert isinstance(got, int | float)
        assert declared.minimum is not None
        assert declared.maximum is not None
        assert declared.minimum <= got <= declared.maximum
        assert isinstance(got, int) == (declared.kind in ("whole", "rank"))


def test_the_method_sees_no_more_than_the_problem() -> None:
    """A pure function of one module: nothing but these goes in, so the order of modules cannot matter."""
    assert [f.name for f in dataclasses.fields(problem(*weights("linear", "wide", 0.3, torch.float16), K))] == [
        "update",
        "source",
        "target",
        "left",
        "right",
    ]


@every
def test_the_order_of_modules_does_not_matter(method: Method) -> None:
    problems = [
        problem(*weights("linear", size, 0.3, torch.float16, seed=s), K) for s, size in enumerate(("wide", "tall"))
    ]
    forward = [product(method.transfer(p)) for p in problems]
    backward = [product(method.transfer(p)) for p in reversed(problems)][::-1]
    assert all(torch.equal(x, y) for x, y in zip(forward, backward, strict=True))
    assert matrix(problems[0].subspaces()[0].left, K).shape[1] == K
