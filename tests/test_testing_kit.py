"""The compliance kit: the toy plugin passes it, and each faulty part is caught by its check."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from xml.etree import ElementTree

import pytest

import unirep_feast.testing
from unirep_feast.testing import (
    EncoderTests,
    ObjectiveTests,
    PluginTests,
    Recipe,
    SamplerTests,
    installed,
    registered,
    registry_of,
)
from unirep_feast.testing.toy.hooks import ENTRY_POINT

FAULTY = Path(__file__).parent / "faulty"

#: What must catch each faulty part: the check, and what its message must say.
CAUGHT = {
    "encoders.py": {
        "TestPaddingDependent": ("test_padding_changes_nothing", "steps wide"),
        "TestMateDependent": ("test_company_changes_nothing", "beside other users"),
        "TestRowDependent": ("test_row_order_permutes_vectors", "in another row order"),
        "TestRandomInEval": ("test_eval_repeats", "encoded twice in eval()"),
        "TestChangesInEval": ("test_eval_repeats", "encoding in eval() changed 'batches'"),
        "TestNotANumber": ("test_empty_rows_are_finite", "numbers are NaN or infinite"),
        "TestHiddenNotANumber": (
            "test_empty_rows_leave_gradients_finite",
            "gradient of 'turn.weight' in a batch with an empty row",
        ),
        "TestWrongShape": (
            "test_vectors_are_finite_and_of_the_declared_shape",
            "vectors are (40, 8), wanted (B, K, D) = (40, 1, 8)",
        ),
        "TestNoDeclaration": ("test_declares_what_it_is", "num_vectors is 0"),
        "TestUnusedParameter": (
            "test_every_parameter_gets_a_gradient",
            "no gradient reaches forgotten; use it, or remove it",
        ),
        "TestStateNotSaved": ("test_state_survives", "outside the state dict"),
        "TestPeeksInPrepare": (
            "test_building_sees_no_future[changed]",
            "'weight' depends on events after the cut-off",
        ),
        "TestRemembersRows": (
            "test_the_future_changes_nothing[added]",
            "when later events are added",
        ),
        "TestCountsCatalogue": (
            "test_a_growing_catalogue_changes_no_vector",
            "after the catalogue grew",
        ),
        "TestAgesSilently": ("test_as_of_alone_changes_nothing", "declare depends_on_as_of = True"),
        "TestNoSteps": ("test_steps_are_as_declared", "declares steps, returns None"),
        "TestPaddedSteps": ("test_steps_are_as_declared", "wanted (N, D)"),
        "TestNoItems": ("test_items_are_as_declared", "NotImplementedError"),
        "TestNormalisesBatches": (
            "test_chunks_equal_the_batch",
            "run in chunks in train(), dropout off",
        ),
        "TestNormalisesAndDrops": ("test_chunks_equal_the_batch", "['norm'] mix the batch's rows"),
        "TestInventsCapabilities": ("test_declares_what_it_is", "telepathy"),
        "TestFewPositions": ("test_long_histories_are_encoded", "index out of range"),
        "TestKnownCodesOnly": (
            "test_masked_unknown_and_appended_items_are_encoded",
            "index out of range",
        ),
        "TestNeedsEvents": ("test_empty_rows_are_finite", "max()"),
        "TestLooseExtras": (
            "test_extras_are_aligned_with_rows",
            "slots are (40, 7) torch.float32, wanted (B, K) = (40, 1) int64",
        ),
        "TestHiddenSlots": (
            "test_extras_are_aligned_with_rows",
            "slots are among the extras; declare what is returned",
        ),
        "TestSlotTwice": ("test_extras_are_aligned_with_rows", "a row names one slot twice"),
        "TestOverridesSilently": (
            "test_no_check_is_overridden_without_a_reason",
            "overrides or removes test_padding_changes_nothing",
        ),
        "TestRemovesSilently": (
            "test_no_check_is_overridden_without_a_reason",
            "overrides or removes test_padding_changes_nothing",
        ),
        "TestExcusesWithoutReason": (
            "test_no_check_is_overridden_without_a_reason",
            "@pytest.mark.xfail(reason=",
        ),
        "TestForgetsTheRecipe": ("test_eval_repeats", "must override the fixture `recipe`"),
    },
    "objectives.py": {
        "TestNotFinite": ("test_terms_are_finite_scalars", "term 'log' is -inf"),
        "TestNotScalar": ("test_terms_are_finite_scalars", "metric 'each' is (4,), wanted ()"),
        "TestDetached": ("test_every_parameter_gets_a_gradient", "is something detached?"),
        "TestLeavesEncoderAlone": (
            "test_every_parameter_gets_a_gradient",
            "trains_encoder is True, but the encoder gets no gradient",
        ),
        "TestUnusedHead": (
            "test_every_parameter_gets_a_gradient",
            "no gradient reaches forgotten.bias, forgotten.weight",
        ),
        "TestUndeclaredView": (
            "test_asks_only_for_what_it_declares",
            "reads view 'later', which is not in `views`",
        ),
        "TestUndeclaredItems": ("test_asks_only_for_what_it_declares", "calls embed_items"),
        "TestUndeclaredSteps": ("test_asks_only_for_what_it_declares", "asks for steps"),
        "TestRequiresUnknown": ("test_declares_what_it_needs", "requires unknown ['telepathy']"),
        "TestMissingView": ("test_declares_what_it_needs", "labels"),
        "TestUphill": ("test_the_loss_falls", "in 60 steps, wanted below"),
        "TestCounts": ("test_scoring_repeats", "the loss is"),
        "TestStateOutside": ("test_state_survives", "kept outside the state dict"),
        "TestNeedsMany": ("test_two_units_are_enough", "the loss of two units is"),
    },
    "samplers.py": {
        "TestUnseeded": ("test_the_same_draw_gives_the_same_views", "use draw.generator"),
        "TestStateful": ("test_the_same_draw_gives_the_same_views", "use draw.generator"),
        "TestRepeats": ("test_another_step_gives_other_views", "views repeat at another step"),
        "TestBeyondCutOff": (
            "test_nothing_is_at_or_after_the_cut_off",
            "events at or after the cut-off",
        ),
        "TestLateAsOf": (
            "test_nothing_is_at_or_after_the_cut_off",
            "as-of times after the cut-off",
        ),
        "TestPeeksAtPopularity": (
            "test_the_future_changes_nothing[changed]",
            "view 'popularity' is another",
        ),
        "TestNoUnits": ("test_units_are_rows_with_a_past", "no units"),
        "TestUnitsWithoutPast": (
            "test_units_are_rows_with_a_past",
            "units have no event before the cut-off",
        ),
        "TestUnitsBeyond": ("test_units_are_rows_with_a_past", "beyond the 40 users"),
        "TestUndeclaredView": (
            "test_declares_its_views",
            "sample returns views ['earlier', 'later'], declares ['earlier']",
        ),
        "TestUnclipped": ("test_views_are_valid", "the encoder's window holds 4"),
        "TestUnknownCodes": ("test_views_are_valid", "codes beyond"),
        "TestLatestFirst": ("test_views_are_valid", "view 'later'"),
        "TestWritesColumns": ("test_histories_are_left_alone", "sample wrote into codes"),
    },
    "plugins.py": {
        "TestImportsTorch": (
            "test_hooks_import_nothing_heavy",
            "hooks_torch imports torch; import it inside the builders",
        ),
        "TestFailsOnImport": ("test_the_host_takes_it", "a_package_that_nobody_has"),
        "TestNoDefaults": ("test_the_host_takes_it", "default"),
        "TestLaxSettings": ("test_the_host_takes_it", "forbid"),
        "TestForeignName": ("test_the_host_takes_it", "'good.sampler'"),
        "TestRegistersTwice": ("test_the_host_takes_it", "twice"),
        "TestMisspeltHook": ("test_the_host_takes_it", "unirep_register_encoder;"),
        "TestOffersNothing": ("test_the_host_takes_it", "is not marked as a hook; put @hookimpl"),
        "TestChangesInYaml": ("test_settings_survive_yaml", "change on their way through YAML"),
        "TestUndescribed": ("test_settings_are_described", "no description of k"),
        "TestMisfit": ("test_the_main_parts_fit", "labels"),
        "TestForgetsTheEntryPoint": (
            "test_the_host_takes_it",
            "must override the fixture `entry_point`",
        ),
    },
}
CASES = [(file, kit) for file, kits in CAUGHT.items() for kit in kits]


class _Toy:
    @pytest.fixture
    def recipe(self) -> Recipe:
        return registered("toy", registry=registry_of(ENTRY_POINT))


class TestToyEncoder(_Toy, EncoderTests):
    """The toy encoder passes."""


class TestToyObjective(_Toy, ObjectiveTests):
    """The toy objective passes."""


class TestToySampler(_Toy, SamplerTests):
    """The toy sampler passes."""


class TestToyPlugin(PluginTests):
    """The toy plugin passes."""

    @pytest.fixture
    def entry_point(self) -> EntryPoint:
        return ENTRY_POINT


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], str]:
    """Run the checks that must fail; the message of each failure by file, class and check."""
    folder = tmp_path_factory.mktemp("faulty")
    excused = (
        "encoders.py",
        "TestExcusesWithReason",
        "test_no_check_is_overridden_without_a_reason",
    )
    wanted = [(file, kit, CAUGHT[file][kit][0]) for file, kit in CASES]
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"),
            f"--junit-xml={folder / 'report.xml'}",
            *("::".join((str(FAULTY / file), *rest)) for file, *rest in (*wanted, excused)),
        ],
        env={**os.environ, "PYTHONPATH": str(FAULTY / "hooks")},
        cwd=folder,
        check=False,
        capture_output=True,
    )
    found = {}
    for case in ElementTree.parse(folder / "report.xml").iter("testcase"):
        *_, module, kit = case.get("classname", "").split(".")
        problem = next((p for p in case if p.tag in ("failure", "error")), None)
        text = "" if problem is None else f"{problem.get('message')}\n{problem.text}"
        found[f"{module}.py", kit, case.get("name", "")] = text
    return found


@pytest.mark.parametrize(("file", "kit"), CASES)
def test_each_fault_is_caught(
    file: str, kit: str, failures: dict[tuple[str, str, str], str]
) -> None:
    """The check that is about a fault fails on it, and says what is wrong."""
    check, message = CAUGHT[file][kit]

    assert message in failures[file, kit, check]


def test_a_reason_excuses(failures: dict[tuple[str, str, str], str]) -> None:
    """An override under xfail with a reason is accepted by the rule about overriding."""
    check = "test_no_check_is_overridden_without_a_reason"

    assert failures["encoders.py", "TestExcusesWithReason", check] == ""


def test_every_faulty_part_has_its_check() -> None:
    """No faulty part stands there without a check that must catch it."""
    for file, kits in CAUGHT.items():
        tree = ast.parse((FAULTY / file).read_text(encoding="utf-8"))
        classes = {n.name for n in tree.body if isinstance(n, ast.ClassDef)}
        there = {name for name in classes if name.startswith("Test")}
        assert there - {"TestExcusesWithReason"} == set(kits)


def test_every_check_catches_something() -> None:
    """Each check of the kit has a fault that only it is named for, or is listed as a safety net."""
    nets = {
        # What it looks at is caught earlier, by another check of a part that goes wrong that way.
        "test_subsets_encode_to_the_same_bits",
        "test_units_may_be_drawn_in_parts",
        # The host itself refuses these when it loads the plugin; the kit asks again.
        "test_names_are_unique_and_prefixed",
        "test_settings_forbid_unknown_keys",
        "test_settings_have_defaults",
    }
    named = {check.partition("[")[0] for kits in CAUGHT.values() for check, _ in kits.values()}
    checks = {
        name
        for kit in (EncoderTests, ObjectiveTests, SamplerTests, PluginTests)
        for name in dir(kit)
        if name.startswith("test_")
    }

    assert checks - named == nets
    assert not named - checks


def test_the_kit_is_light_to_import() -> None:
    """Importing the package loads neither torch nor pytest: hook modules may live beside it."""
    program = (
        "import sys, unirep_feast.testing, unirep_feast.testing.toy.hooks\n"
        "print([n for n in ('torch', 'pytest', 'numpy') if n in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout.strip() == "[]"


def test_the_public_names_exist() -> None:
    """Everything in ``__all__`` can be had, and nothing else is promised."""
    for name in unirep_feast.testing.__all__:
        assert getattr(unirep_feast.testing, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        unirep_feast.testing.Nothing  # noqa: B018


def test_a_plugin_that_is_not_installed_is_named() -> None:
    """``installed`` says what to install and which lines declare it."""
    with pytest.raises(LookupError, match="no installed plugin 'acme'; install it"):
        installed("acme")
