"""Threats and items: what is typed is what is judged, and the text of it is the key everywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtk.errors import BadValue, UnknownName
from rtk.options import EvaluationOptions
from rtk.suite import Item, Suite
from rtk.threat import Threat, parse_threats

LINF, L2 = Threat("Linf", 8 / 255), Threat("L2", 0.5)
RADII = st.one_of(
    st.floats(0, 1), st.integers(0, 255).map(lambda k: k / 255), st.sampled_from([0.1, 0.5, 1.0, 5e-324, 1e-8])
)
THREATS = st.one_of(
    RADII.map(lambda eps: Threat("Linf", eps)), st.floats(0, 1000).map(lambda eps: Threat("L2", eps)), st.just(L2)
)


@given(THREATS)
def test_the_text_of_a_threat_reads_back_to_the_same_bits(threat: Threat) -> None:
    assert Threat.parse(str(threat)) == threat
    assert threat.label == str(threat).replace(":", " ")


@given(st.lists(THREATS, min_size=1, unique=True))
def test_a_list_of_threats_reads_back_also_where_the_norm_is_left_out(threats: list[Threat]) -> None:
    assert parse_threats(",".join(map(str, threats))) == tuple(threats)
    short, norm = [], ""
    for threat in threats:
        text = str(threat)
        short.append(text.partition(":")[2] if threat.norm == norm else text)
        norm = threat.norm
    assert parse_threats(",".join(short)) == tuple(threats)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Linf:8/255", "Linf:8/255"),
        ("linf: 0.1", "Linf:0.1"),
        ("L2:128/255", "L2:128/255"),
        ("L2:0.5", "L2:0.5"),
        ("L2:1", "L2:1"),
        ("Linf:0", "Linf:0"),
        ("Linf:0.2", "Linf:0.2"),
    ],
)
def test_a_threat_is_written_as_people_write_it(text: str, expected: str) -> None:
    assert str(Threat.parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8/255", "got '8/255' (allowed: NORM:EPS with the norms Linf | L2)"),
        ("L1:3", "got 'L1:3'"),
        ("Linf:", "the radius of 'Linf:' is no number"),
        ("Linf:8/0", "is no number"),
        ("Linf:nan", "is no number"),
        ("Linf:2", "--threats Linf:2: got 2.0 (allowed: 0 to 1 for Linf"),
        ("L2:-1", "--threats L2:-1: got -1.0"),
        ("Linf:0.1,,L2:1", "the radius of 'Linf:' is no number"),
        ("", "got ''"),
    ],
)
def test_a_wrong_threat_is_refused_with_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(BadValue) as caught:
        parse_threats(text)
    assert said in caught.value.message
    assert caught.value.hint == "--threats Linf:8/255 or --threats Linf:4/255,8/255,L2:0.5"


def test_a_suite_is_every_kind_in_order_and_an_attack_at_every_threat() -> None:
    suite = Suite(("clean", "pgd20", "autoattack", "pgd20"), (LINF, L2), images=7, autoattack_images=3)
    assert list(map(str, suite.items)) == [
        "clean",
        "pgd20@Linf:8/255",
        "pgd20@L2:0.5",
        "autoattack@Linf:8/255",
        "autoattack@L2:0.5",
    ]
    assert [suite.n(item) for item in suite.items] == [7, 7, 7, 3, 3]
    assert len({item.file for item in suite.items}) == 5 and not any("/" in item.file for item in suite.items)
    assert Suite(("clean",), ()).items == (Item("clean"),)
    more = Suite(("masking", "corruptions"), (LINF, L2), images=7, chunk_size=5, corruption_images=None)
    assert list(map(str, more.items)) == ["masking@Linf:8/255", "masking@L2:0.5", "corruptions"]
    assert [more.n(item) for item in more.items] == [64, 64, None]
    assert [more.chunk(item) for item in more.items] == [64, 64, 32] and suite.chunk(suite.items[0]) == 128
    assert "masking" in Suite().names and "corruptions" not in Suite().names


def test_a_suite_without_anything_to_do_is_refused() -> None:
    for names, threats, said in (((), (LINF,), "nothing to evaluate"), (("pgd20",), (), "the suite holds attacks")):
        with pytest.raises(BadValue, match=said):
            Suite(names, threats)
    with pytest.raises(UnknownName, match="Did you mean 'pgd20'"):
        Suite(("pgd2",), (LINF,))


def test_options_become_a_suite_at_the_networks_own_threat_unless_others_are_named() -> None:
    assert EvaluationOptions().suite_at(L2, 5) == Suite(threats=(L2,), seed=5)
    typed = EvaluationOptions(threats="linf:8/255,0.5,L2:0.5", images="all", autoattack_images="all", suite="pgd20")
    assert typed.threats == ("Linf:8/255", "Linf:0.5", "L2:0.5"), "one spelling, so that equal requests are equal"
    found = typed.suite_at(L2, 0)
    assert found.threats == (LINF, Threat("Linf", 0.5), L2)
    assert found.images is None and found.autoattack_images is None
