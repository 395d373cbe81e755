"""Hyper-parameters: text to values, bounds, messages, and the order of defaults, file and flags."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rtk
from rtk.config import bounds, fraction, read_toml, resolve, wanted
from rtk.errors import BadValue, PluginError, RtkError, UnknownName
from rtk.request import RunOptions, build


class Options(rtk.Config):
    epochs: int = rtk.option(10, "Epochs.", origin="paper", ge=0, le=1000)
    lr: float = rtk.option(0.01, "Rate.", origin="paper", gt=0)
    eps: float | None = rtk.option(None, "Radius.", origin="rtk", ge=0)
    milestones: tuple[int, ...] = rtk.option((5, 8), "Epochs.", origin="rtk")
    radii: tuple[float, ...] | None = rtk.option(None, "Radii.", origin="rtk")
    ascent: Literal["relative", "code"] = rtk.option("relative", "Which.", origin="rtk")
    bits: Literal[8, 16] = rtk.option(8, "Bits.", origin="rtk")
    name: str = rtk.option("least", "Name.", origin="rtk", min_length=1)
    augment: str = rtk.option("auto", "Augmentation.", origin="rtk", pattern="^(auto|none|crop-flip)$")
    device: str = rtk.option("auto", "Device: auto or cuda:N.", origin="rtk", pattern=r"^(auto|cuda:\d+)$")
    fast: bool = rtk.option(False, "Fast.", origin="rtk")
    place: Path | None = rtk.option(None, "Where.", origin="rtk")


class Required(rtk.Config):
    size: int = rtk.option(help="Size.", origin="here", ge=1)


class Validated(rtk.Config):
    low: int = rtk.option(0, "Low.", origin="here")
    high: int = rtk.option(9, "High.", origin="here")

    @pydantic.field_validator("low")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value == 13:
            raise ValueError("brings\nbad luck")
        if value == 14:
            raise TypeError("a mistake of the author")
        return value

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Validated:
        if self.low > self.high:
            raise ValueError("low must not exceed high")
        return self


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lr", "8/255", 8 / 255),
        ("eps", "8/255", 8 / 255),
        ("eps", " 8 / 255 ", 8 / 255),
        ("eps", "none", None),
        ("eps", "None", None),
        ("eps", "0", 0.0),
        ("epochs", " 3 ", 3),
        ("lr", "1e-3", 0.001),
        ("milestones", "3, 4,", (3, 4)),
        ("milestones", "", ()),
        ("milestones", "7", (7,)),
        ("radii", "1/2,3", (0.5, 3.0)),
        ("radii", "none", None),
        ("ascent", "code", "code"),
        ("bits", "16", 16),
        ("name", "none", "none"),
        ("augment", "none", "none"),
        ("fast", "true", True),
        ("place", "a/b", Path("a/b")),
    ],
)
def test_text_becomes_a_value(name: str, text: str, value: Any) -> None:
    assert getattr(resolve(Options, {name: text}), name) == value


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": "ten"}, "--epochs: needs a whole number 0 to 1000, got 'ten'. Try: --epochs 10"),
        ({"epochs": "1.5"}, "--epochs: needs a whole number 0 to 1000, got '1.5'."),
        ({"epochs": "-1"}, "--epochs: needs a whole number 0 to 1000, got '-1'."),
        ({"epochs": "none"}, "--epochs: needs a whole number 0 to 1000, got 'none'."),
        ({"epochs": True}, "--epochs: needs a whole number 0 to 1000, got 'true'."),
        ({"epochs": "9" * 5000}, "9999.... Try: --epochs 10"),
        ({"lr": "0"}, "--lr: needs a finite number > 0, got '0'. Try: --lr 0.01"),
        ({"lr": "nan"}, "--lr: needs a finite number > 0, got 'nan'."),
        ({"lr": math.nan}, "--lr: needs a finite number > 0, got nan."),
        ({"lr": "inf"}, "--lr: needs a finite number > 0, got 'inf'."),
        ({"lr": "inf/2"}, "--lr: needs a finite number > 0, got inf."),
        ({"lr": "1/0"}, "--lr: needs a finite number > 0, got '1/0'."),
        ({"lr": "1/2/3"}, "--lr: needs a finite number > 0, got '1/2/3'."),
        ({"eps": "-8/255"}, "--eps: needs a finite number >= 0 or none, got -0.03137254901960784. Try: without --eps"),
        ({"milestones": "1,b"}, "--milestones: needs whole numbers joined by commas, got 'b'. Try: --milestones 5,8"),
        ({"ascent": "cod"}, "--ascent: needs one of relative | code, got 'cod'. Try: --ascent relative"),
        ({"bits": "9"}, "--bits: needs one of 8 | 16, got '9'."),
        ({"augment": "crop"}, "--augment: needs one of auto | none | crop-flip, got 'crop'."),
        ({"device": "gpu"}, "--device: needs text as described (Device: auto or cuda:N), got 'gpu'."),
        ({"name": 5}, "--name: needs text length at least 1, got 5."),
        (
            {"name": "a\ud800"},
            "--name: no file name and no other value may hold what is not UTF-8.",
        ),
        ({"milestones": (2**63,)}, "--milestones: no number may need more than 64 bits."),
        ({"epochs": 16**4000}, "--epochs: needs a whole number 0 to 1000, got int, too large to be shown."),
        ({"fast": "maybe"}, "--fast: needs true or false, got 'maybe'. Try: --fast, or --no-fast"),
        ({"place": "a\0b"}, "--place: no file name and no other value may hold a null character."),
        ({"epochs": {"a": 1}}, "--epochs: needs a whole number 0 to 1000, got {'a': 1}."),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed_and_what_was_given(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadValue) as problem:
        resolve(Options, values)
    assert message in str(problem.value)
    assert "pydantic" not in str(problem.value) and "\n" not in str(problem.value)


def test_a_required_option_is_asked_for() -> None:
    with pytest.raises(BadValue, match=r"--size: is required, needs a whole number >= 1. Try: --size VALUE"):
        resolve(Required, {})
    assert resolve(Required, {"size": "2"}).model_dump() == {"size": 2}


def test_the_validators_of_a_strategy_speak_in_their_own_words() -> None:
    with pytest.raises(BadValue, match=r"^--low: brings bad luck, got '13'\."):
        resolve(Validated, {"low": "13"})
    with pytest.raises(BadValue, match=r"^low must not exceed high\.$"):
        resolve(Validated, {"low": "10"})
    with pytest.raises(
        PluginError, match=r"the options Validated cannot be checked: TypeError: a mistake of the author"
    ):
        resolve(Validated, {"low": "14"})


def test_an_unknown_option_comes_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"Unknown option '--epocs'. Did you mean '--epochs'?"):
        resolve(Options, {"epocs": 1})


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(pydantic.ValidationError):
        resolve(Options, {}).epochs = 3  # type: ignore[attr-defined]


def test_limits_are_told_in_words() -> None:
    fields = Options.model_fields
    assert {name: bounds(fields[name]) for name in ("epochs", "lr", "milestones", "ascent", "augment", "device")} == {
        "epochs": "0 to 1000",
        "lr": "> 0",
        "milestones": "",
        "ascent": "relative | code",
        "augment": "auto | none | crop-flip",
        "device": "",
    }
    assert wanted(RunOptions.model_fields["blocks"]) == "names joined by commas or none"


def test_toml_stands_between_defaults_and_flags(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('epochs = 3\nlr = "1/4"\nmilestones = [1, 2]\nfast = true\nascent = "code"\n')
    found = resolve(Options, {"epochs": "4"}, read_toml(path))
    assert isinstance(found, Options)
    assert (found.epochs, found.lr, found.milestones, found.fast, found.ascent) == (4, 0.25, (1, 2), True, "code")
    assert found.name == "least"


@pytest.mark.parametrize("key", ["weight-decay", "weight_decay"])
def test_toml_keys_may_have_hyphens(key: str) -> None:
    request = build("full", {}, {key: 0.5, "weights": "random", "suite": "clean"})
    assert request.config.model_dump()["weight_decay"] == 0.5
    assert build("full", {"weight_decay": "0.25"}, {key: 0.5}).config.model_dump()["weight_decay"] == 0.25


def test_unknown_keys_of_toml_are_refused() -> None:
    with pytest.raises(
        UnknownName, match=r"Unknown option in the configuration file '--epocs'. Did you mean '--epochs'"
    ):
        build("full", {}, {"epocs": 3})
    with pytest.raises(UnknownName, match=r"Unknown option in the configuration file '--rift'"):
        build("full", {}, {"rift": {"epochs": 3}})


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"epochs 3", "not a TOML file"), (b"a = 1\na = 2", "not a TOML file"), (b"\xff\xfe", "not a TOML file")],
)
def test_what_is_no_toml_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(BadValue, match=said):
        read_toml(path)


def test_missing_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match=r"no such file"):
        read_toml(tmp_path / "missing.toml")
    with pytest.raises(BadValue, match=r"Is a directory"):
        read_toml(tmp_path)
    with pytest.raises(BadValue, match=r"null byte"):
        read_toml(Path("a\0b"))


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALID = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(0, 1000),
        "lr": st.floats(1e-300, 1e300),
        "eps": st.none() | st.floats(0, 1e300),
        "milestones": st.lists(st.integers(-(2**63) + 1, 2**63 - 1), max_size=5).map(tuple),
        "radii": st.none() | st.lists(NUMBERS, max_size=5).map(tuple),
        "ascent": st.sampled_from(["relative", "code"]),
        "bits": st.sampled_from([8, 16]),
        "name": st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
        "fast": st.booleans(),
        "place": st.none() | st.sampled_from([Path("a"), Path("a/b"), Path("/")]),
    },
)


def typed(value: Any) -> str:
    """A value as somebody would type it."""
    if isinstance(value, tuple):
        return ",".join(map(repr, value))
    return "none" if value is None else str(value)


@given(NUMBERS, NUMBERS.filter(lambda number: number != 0))
def test_law_a_fraction_is_its_quotient(above: float, below: float) -> None:
    assert fraction(f"{above!r}/{below!r}") == above / below


@given(st.text())
def test_law_a_fraction_is_a_number_or_the_text_itself(text: str) -> None:
    found = fraction(text)
    assert isinstance(found, float) or found == text


@settings(max_examples=300)
@given(VALID, VALID)
def test_law_flags_win_over_the_file_and_the_file_over_defaults(flags: dict[str, Any], file: dict[str, Any]) -> None:
    found = resolve(Options, flags, file).model_dump()
    assert found == {**Options().model_dump(), **file, **flags}


@settings(max_examples=300)
@given(VALID)
def test_law_json_and_back_is_the_same(values: dict[str, Any]) -> None:
    found = resolve(Options, values)
    again = Options(**json.loads(json.dumps(found.model_dump(mode="json"), allow_nan=False)))
    assert again == found


@settings(max_examples=300)
@given(VALID.map(lambda values: {key: value for key, value in values.items() if key != "name"}))
def test_law_what_is_typed_is_what_is_meant(values: dict[str, Any]) -> None:
    assert resolve(Options, {key: typed(value) for key, value in values.items()}) == resolve(Options, values)


ANYTHING = st.text() | st.from_regex(r"[-+]?[0-9./,eE ]{1,12}") | st.sampled_from(["none", "nan", "inf", "1e999", "\0"])


@settings(max_examples=1000)
@given(st.dictionaries(st.sampled_from(sorted(Options.model_fields)) | st.text(), ANYTHING, max_size=3))
def test_law_no_text_raises_anything_but_an_error_of_rtk(values: dict[str, str]) -> None:
    try:
        found = resolve(Options, values)
    except RtkError as problem:
        assert "\n" not in problem.message.replace("\n", "", sum(key.count("\n") for key in values))
    else:
        json.dumps(found.model_dump(mode="json"), allow_nan=False)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(RunOptions.model_fields)), ANYTHING, max_size=2))
def test_law_no_text_for_an_option_of_every_run_raises_anything_else(values: dict[str, str]) -> None:
    try:
        request = build("full", values)
        json.dumps(request.describe(), allow_nan=False)
        assert isinstance(request.directory, Path)
    except RtkError:
        pass
