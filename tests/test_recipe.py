"""Options that training phases share: inherited, with defaults and origins of a strategy's own."""

from __future__ import annotations

import pickle

import pytest

import rtk
from rtk.config import default, origin, resolve
from rtk.errors import BadValue


class Paper(rtk.ScheduledConfig, defaults={"epochs": (60, "section 4"), "milestones": ((30, 50), "published code")}):
    beta: float = rtk.option(6.0, "Weight.", origin="section 3", ge=0)


class Variant(Paper, defaults={"beta": (1.0, "appendix"), "lr": (0.3, "appendix")}):
    pass


def test_defaults_and_their_origins_are_those_that_the_class_names() -> None:
    assert (Paper().epochs, Paper().milestones, Paper().lr) == (60, (30, 50), rtk.ScheduledConfig().lr)
    assert origin(Paper.model_fields["epochs"]) == "section 4" and default(Paper.model_fields["epochs"]) == "60"
    assert (Variant().beta, Variant().lr, Variant().epochs, Paper().beta) == (1.0, 0.3, 60, 6.0)
    assert origin(rtk.ScheduledConfig.model_fields["epochs"]) == "rtk"


def test_bounds_and_texts_are_inherited() -> None:
    assert resolve(Variant, {"epochs": "7", "milestones": "1,2"}) == Variant(epochs=7, milestones=(1, 2))
    with pytest.raises(BadValue, match=r"--epochs: needs a whole number >= 0, got '-1'"):
        resolve(Variant, {"epochs": "-1"})


def test_a_default_of_no_option_is_a_mistake_of_the_author() -> None:
    with pytest.raises(TypeError, match="Wrong: defaults name 'epoch', which is not an inherited option"):

        class Wrong(rtk.TrainingConfig, defaults={"epoch": (1, "rtk")}):
            pass


def test_a_default_outside_the_bounds_is_found() -> None:
    class Negative(rtk.TrainingConfig, defaults={"lr": (-1.0, "rtk")}):
        pass

    with pytest.raises(BadValue, match="--lr"):
        resolve(Negative, {})


def test_options_travel_to_other_processes() -> None:
    assert pickle.loads(pickle.dumps(Variant(beta=3))) == Variant(beta=3)


def test_schedules_follow_the_options() -> None:
    def factor(time: float, **values: object) -> float:
        return Paper(**values).recipe()["schedule"](time)

    assert factor(29.9) == 1 and factor(30) == pytest.approx(0.1) and factor(30, gamma=0.5) == 0.5
    assert factor(59, schedule="constant") == 1
    assert factor(30, schedule="cosine") == pytest.approx(0.5) and factor(1, warmup=2.0) == 0.5
