"""The checks, in the order in which they are made. A check's name is that of its function, with hyphens.

A check returns a note or nothing when it passes, raises `Fault` with a sentence that says what to change, or `Skip`.
"""

from __future__ import annotations

from collections.abc import Callable

from ..trial import Trial
from . import declared, inputs, isolation, manners, repeating, returned

Check = Callable[[Trial], str | None]

CHECKS: tuple[Check, ...] = (
    declared.loads_as_a_plugin,
    declared.says_what_it_is,
    declared.options_are_documented,
    declared.options_are_bounded,
    declared.options_resolve_from_text,
    declared.imports_public_names_only,
    isolation.runs_to_the_end,
    isolation.works_in_another_process,
    isolation.opens_no_data_set,
    isolation.writes_into_its_run_directory_only,
    isolation.opens_no_connection,
    isolation.prints_nothing,
    returned.keeps_the_architecture,
    returned.stays_in_float32,
    returned.gives_finite_logits,
    returned.is_what_its_weights_say,
    returned.never_returns_nan,
    returned.moves_only_what_it_declares,
    repeating.same_seed_gives_the_same_weights,
    repeating.global_seed_does_not_matter,
    repeating.state_on_entry_does_not_matter,
    repeating.lets_interruptions_through,
    repeating.resumes_with_the_same_bits,
    manners.gives_images_in_range,
    manners.leaves_random_state_alone,
    manners.leaves_torch_settings_alone,
    manners.keeps_the_source,
    manners.keeps_the_data,
    manners.keeps_the_run,
    inputs.takes_batch_norm,
    inputs.takes_layer_norm,
    inputs.takes_group_norm,
    inputs.takes_any_number_of_classes,
    inputs.takes_oblong_images,
    inputs.takes_an_image_left_over,
    inputs.takes_either_norm_of_threat,
    inputs.takes_zero_epochs,
    inputs.refuses_honestly,
)


def name_of(check: Check) -> str:
    """The name by which a check is known: stable, lower case, words joined by hyphens."""
    return str(check.__name__).replace("_", "-")


def sentence_of(check: Check) -> str:
    """What a check protects: its docstring."""
    return " ".join((check.__doc__ or "").split())
