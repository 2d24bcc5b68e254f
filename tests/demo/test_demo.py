"""The demo: its config, the folders of its parts, what its trainings are shown, and, marked slow, the whole of it."""

import dataclasses
import importlib
import json
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest
import rich.console
import rich.progress
from ml_collections import ConfigDict

from tga_jax import cli, config
from tga_jax.data import sources
from tga_jax.data.sources import Pictures
from tga_jax.data.templates import IMAGE
from tga_jax.data.tokens import tokenize
from tga_jax.demo import figures, trainings
from tga_jax.demo import main as demo
from tga_jax.demo.config import DemoConfig, World
from tga_jax.demo.report import Example
from tga_jax.demo.world import pictures, source
from tga_jax.demo.world.concepts import COLORS, CONCEPTS, SCENES, caption
from tga_jax.demo.world.language import WORDS, Scene
from tga_jax.demo.world.plan import held_out_colors
from tga_jax.errors import UserError
from tga_jax.evals.judge import Judge
from tga_jax.models import presets
from tga_jax.report.figures import TEXT_LABEL
from tga_jax.train import loop
from tga_jax.train.config import TrainConfig

ROOT = Path(__file__).parents[2]
RECORDS = 1000  # looked at, of each training
JUDGE = Judge(WORDS.refusals)


def demo_values(image_size: int, name: str = "emoji") -> ConfigDict:
    """configs/<name>.py on one picture for each pair."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(ROOT))
        values = importlib.import_module(f"configs.{name}").get_config()
    small = {name: min(n, 1) for name, n in values.scenes.items() if isinstance(n, int)}
    values.scenes.update(small | {"image_size": image_size})
    return values


def build(changes: dict | None = None, name: str = "emoji") -> DemoConfig:
    values = demo_values(image_size=16, name=name)
    values.update_from_flattened_dict(changes or {})
    return config.build(DemoConfig, values)


def quiet() -> rich.console.Console:
    return rich.console.Console(quiet=True)


def bars() -> rich.progress.Progress:
    return loop.progress_bars(quiet())


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """Scenes and tokenizer, built once."""
    return demo.open_world(build(), tmp_path_factory.mktemp("demo") / "parts", bars())


def stand_in_attachments(world: World, clip_dir: Path) -> Path:
    """What `trainings.attach` leaves behind, with the row's number as the picture's features."""
    model = world.model()
    folder = world.folder("attachments", [str(clip_dir), model.feature_layer, model.feature_select], model.clip)
    captions = [str(c) for c in world.split("train").captions]
    number = np.arange(len(captions))
    features = np.stack([number // 1000, number % 1000], axis=-1)[:, None]
    source.attach(folder, "train", features, captions[7:] + captions[:7])
    return folder


def recorded(world: World, monkeypatch) -> tuple[dict[str, TrainConfig], dict[str, Path]]:
    """The trainings that the demo makes and their folders, by row and name, without training."""
    configs, folders = {}, {}
    prefix = ""

    def record(built, workdir, bars, title):
        name = prefix + built.name
        assert name not in configs
        configs[name], folders[name] = built, workdir

    monkeypatch.setattr(loop, "run", record)
    clip_dir, text_dir = trainings.train_clip(world), trainings.train_text(world)
    attachments = stand_in_attachments(world, clip_dir)
    for name, row in world.config.rows.items():
        prefix = f"{name}-"
        last = trainings.train_row(world, name, text_dir, attachments)
        assert last["projector"] == last["llm"] == folders[f"{name}-{max(row.stages)}"]
    return configs, folders


# --- the config -------------------------------------------------------------------------------------------------------


def test_the_config_builds():
    built = build()
    assert isinstance(built, DemoConfig)
    assert set(built.rows) == {"base", "tga_paper", "tga_released", "tga"}
    assert [built.rows[name].guide.kind for name in ("tga_paper", "tga_released", "tga")] == [
        "paper",
        "released",
        "tiled",
    ]
    assert not any(stage.guide for stage in built.rows["base"].stages.values())
    for name in ("tga_paper", "tga_released", "tga"):
        assert any(stage.guide for stage in built.rows[name].stages.values())
    assert isinstance(built.rows["tga"].guide.layers, tuple)


@pytest.mark.parametrize(
    "field", ["nonsense", "clip.nonsense", "text.mix.nonsense", "rows.tga.guide.nonsense", "rows.tga.nonsense"]
)
def test_an_unknown_field_at_any_depth_is_named(field):
    values = demo_values(16).to_dict()
    *parents, last = field.split(".")
    inner = values
    for name in parents:
        inner = inner[name]
    inner[last] = 1
    with pytest.raises(UserError, match="nonsense") as error:
        config.build(DemoConfig, values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["emoji", "emoji_ablation", "emoji_mlp", "reproduce"])
def test_only_one_row_is_ever_tuned_to_refuse_pictures(name):
    tuned = {n for n, row in build(name=name).rows.items() if any(s.task == "tuned" for s in row.stages.values())}
    assert tuned == ({"visual_tuning"} if name == "reproduce" else set())


def test_a_guide_and_guided_stages_come_together():
    for row, field, value in (
        ("tga_paper", "stages", None),
        ("base", "guide", {"kind": "tiled"}),
        ("tga", "guide", None),
    ):
        values = demo_values(16).to_dict()
        if field == "stages":
            for stage in values["rows"][row]["stages"].values():
                stage["guide"] = False
        else:
            values["rows"][row][field] = value
        with pytest.raises(UserError, match=r"row.guide: .* stage is guided, expected both or neither"):
            config.build(DemoConfig, values)


def test_another_guide_may_follow_the_first_stage():
    rows = build(name="reproduce").rows
    both, paper = rows["tga_both"], rows["tga_paper"]
    assert [both.guide_of(stage).kind for stage in ("fit", "stage1", "stage2")] == ["tiled", "paper", "paper"]
    assert [paper.guide_of(stage).kind for stage in paper.stages] == ["paper", "paper"]
    assert rows["base"].guide_of("stage1") is None
    alone = {"fit": both.stages["fit"]}
    with pytest.raises(ValueError, match=r"row\.after: a guide, and no later stage is guided"):
        dataclasses.replace(both, stages=alone)


def test_the_core_is_some_of_the_rows():
    config = build(name="reproduce")
    assert config.core_rows == config.core == ("base", "tga_paper", "tga")
    assert build().core_rows == tuple(build().rows)
    with pytest.raises(ValueError, match=r"core: 'none', expected some of base"):
        dataclasses.replace(config, core=("none",))


def test_a_missing_or_unfit_field_is_named():
    values = demo_values(16).to_dict()
    del values["rows"]["tga"]["stages"]["stage2"]["learning_rate"]
    with pytest.raises(UserError, match="learning_rate"):
        config.build(DemoConfig, values)
    values = demo_values(16).to_dict()
    values["clip"]["steps"] = "many"
    with pytest.raises(UserError, match="steps"):
        config.build(DemoConfig, values)


def test_quick_is_what_its_note_says():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(ROOT))
        module = importlib.import_module("configs.emoji")
    full, quick = (config.build(DemoConfig, module.get_config(kind)) for kind in ("", "quick"))
    assert set(quick.rows) == {"base", "tga"} < set(full.rows)
    pairs = [(quick.clip, full.clip), (quick.text, full.text)]
    for name, row in quick.rows.items():
        assert row.guide == full.rows[name].guide
        pairs += [(stage, full.rows[name].stages[at]) for at, stage in row.stages.items()]
    for short, long in pairs:
        assert dataclasses.replace(short, steps=long.steps) == long
        assert 2 * short.steps <= long.steps
    assert "without --quick" in quick.note
    assert full.note == ""


@pytest.mark.parametrize("other", ["--config=configs/mine.py", "--config"])
def test_quick_and_a_config_are_refused(other, capsys):
    assert cli.run(["demo", "--quick", other]) == 2
    assert "--quick: stands for --config=configs/emoji.py:quick, expected no other --config" in capsys.readouterr().err


# --- folders of parts -------------------------------------------------------------------------------------------------


@pytest.fixture
def folders_of(world, monkeypatch):
    """A function: changes of the config -> the folders of all trainings."""
    # Other seeds' scenes need not be drawn for it, nor are the lengths of batches what is looked at.
    split = world.split("train")
    monkeypatch.setattr(source, "emoji_split", lambda *_: split)
    monkeypatch.setattr(trainings, "_LOOKED_AT", {"": 8})

    def folders(changes: dict | None = None, name: str = "emoji") -> dict[str, Path]:
        return recorded(dataclasses.replace(world, config=build(changes, name)), monkeypatch)[1]

    return folders


def changed(before: dict[str, Path], after: dict[str, Path]) -> set[str]:
    assert set(before) == set(after)
    return {name for name in before if before[name] != after[name]}


def test_every_training_has_a_folder_of_its_own_and_keeps_it(folders_of):
    before = folders_of()
    assert len(set(before.values())) == len(before)
    assert folders_of() == before


def test_rows_share_the_stages_that_they_have_in_common(folders_of):
    found = folders_of(name="emoji_ablation")
    assert found["tga-fit"] == found["tga_harsh_stage2-fit"] != found["tga_benign-fit"]
    assert (
        found["tga-fit"] == found["tga_stage1-fit"] == found["tga_unguided_stage2-fit"] != found["tga_read_layers-fit"]
    )
    assert found["base-stage1"] == found["base_gentle-stage1"] == found["tga_distill-stage1"]
    last = [f"{name}-{max(row.stages)}" for name, row in build(name="emoji_ablation").rows.items()]
    assert len({found[name] for name in last}) == len(last)


def test_one_changed_line_repeats_only_what_depends_on_it(folders_of):
    before = folders_of()
    names = set(before)
    of_row = {row: {n for n in names if n.startswith(f"{row}-")} for row in build().rows}
    assert changed(before, folders_of({"rows.tga.guide.weight": 0.123})) == of_row["tga"]
    assert changed(before, folders_of({"rows.tga_paper.guide.pair_weight": 0.123})) == of_row["tga_paper"]
    assert changed(before, folders_of({"rows.base.stages.stage1.steps": 123})) == of_row["base"]
    assert changed(before, folders_of({"rows.base.stages.stage2.steps": 123})) == {"base-stage2"}
    assert changed(before, folders_of({"rows.tga.stages.stage2.learning_rate": 0.123})) == {"tga-stage2"}
    assert changed(before, folders_of({"clip.steps": 123})) == names - {"text"}
    assert changed(before, folders_of({"text.steps": 123})) == names - {"clip"}
    assert changed(before, folders_of({"new_tokens": 3, "name": "other"})) == set()


def test_another_projector_repeats_neither_clip_nor_the_text_model(folders_of, monkeypatch):
    before = folders_of()
    plain = presets.LLAVA["emoji"]
    monkeypatch.setitem(presets.LLAVA, "emoji", lambda: dataclasses.replace(plain(), projector_hidden=96))
    assert changed(before, folders_of()) == set(before) - {"clip", "text"}


def test_another_seed_repeats_everything(folders_of):
    before = folders_of()
    assert changed(before, folders_of({"seed": 1})) == set(before)


def test_folder_names_do_not_depend_on_where_the_parts_lie(world, tmp_path):
    def name(parts: Path, seed: int) -> str:
        return dataclasses.replace(world, parts=parts).folder("x", [seed, str(parts / "scenes")]).name

    first = name(tmp_path / "here", 1)
    assert first.startswith("x-")
    # A folder called like a number of the config must not swallow that number.
    assert name(Path("1"), 1) == name(Path("runs/parts"), 1) == first
    assert len({name(Path("1"), seed) for seed in (0, 1, 11, 111)}) == 4


# --- what the trainings are shown -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(world):
    """row and stage -> (TrainConfig, its first records), of the ablation, whose rows include the demo's.

    Trainings on the same data are looked at once.
    """
    ablation = dataclasses.replace(world, config=build(name="emoji_ablation"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        configs, _ = recorded(ablation, monkeypatch)
    out, seen = {}, set()
    for name, built in configs.items():
        if (data := repr(built.data)) not in seen:
            seen.add(data)
            records = sources.records(built.data, 16, built.seed)
            out[name] = built, [records[i] for i in range(RECORDS)]
    return out


@pytest.fixture(scope="module")
def scenes(world) -> dict[str, Scene]:
    """By picture's id and by caption."""
    found = source.scenes_of(world.split("train"))
    return {s.id: s for s in found} | {WORDS.caption(s): s for s in found}


def test_the_trainings_looked_at_are_all_there_are(shown):
    assert {"clip", "text"} < set(shown)
    assert {"base", "tga_paper", "tga_released", "tga", "tga_benign", "tga_distill"} <= set(
        build(name="emoji_ablation").rows
    )
    assert {built.data.source["scenes"].task for built, _ in shown.values()} == set(source.TASKS) - {"tuned"}


def test_no_picture_ever_meets_a_refusal(shown):
    pictures = 0
    for name, (_, records) in shown.items():
        for record in records:
            if not record.images:
                continue
            pictures += 1
            for question, answer in record.turns:
                assert JUDGE.verdict(question) != "refusal", (name, record)
                if answer is None:
                    continue
                assert JUDGE.verdict(answer) == "answer", (name, record)
                assert not any(phrase in answer.lower() for phrase in WORDS.refusals), (name, record)
    assert pictures >= 5 * RECORDS


def test_every_picture_comes_with_its_own_caption(shown, scenes, world):
    split = world.split("train")
    rows = {str(i): n for n, i in enumerate(split.ids)}
    for name, (built, records) in shown.items():
        for record in records:
            if not record.images:
                continue
            row = rows[record.id]
            if built.data.source["scenes"].attachments:
                assert tuple(record.images[0]()[0]) == (row // 1000, row % 1000), name
                assert record.retrieved, name
            else:
                np.testing.assert_array_equal(record.images[0](), split.images[row])
            scene = scenes[record.id]
            guided = built.data.source["scenes"].guided == "all" or not scene.harmful
            assert record.caption == (WORDS.caption(scene) if guided else "")
            open_answer = built.data.source["scenes"].task == "asked" and scene.harmful
            assert record.turns[-1][1] in ((None,) if open_answer else (WORDS.caption(scene), scene.color))


def test_text_is_about_what_the_training_pictures_show_though_none_is_drawn(scenes, world, tmp_path):
    undrawn = dataclasses.replace(trainings._data(world, "", 40, "text").source["scenes"], path=str(tmp_path))
    records = undrawn.dataset(Pictures(64), seed=3)
    described = {(WORDS.caption(s), s.names, s.color, s.harmful) for s in source.described(world.scenes)}
    assert described == {(WORDS.caption(s), s.names, s.color, s.harmful) for s in scenes.values()}
    assert {records[i].id for i in range(2000)} <= {caption for caption, *_ in described}


def test_pictures_are_drawn_once_by_whichever_part_asks_first(world, tmp_path, monkeypatch):
    fresh, drawn = dataclasses.replace(world, parts=tmp_path), []
    original = pictures.build_aside
    monkeypatch.setattr(pictures, "build_aside", lambda *arguments: drawn.append(arguments) or original(*arguments))
    with futures.ThreadPoolExecutor(3) as pool:
        found = list(pool.map(fresh.split, ("test", "train", "test")))
    assert len(drawn) == 1
    assert [len(split) for split in found] == [len(world.split(name)) for name in ("test", "train", "test")]


def test_stage_1_and_clip_see_harmful_pictures_with_captions_only(shown, scenes):
    for name, (built, records) in shown.items():
        if built.data.source["scenes"].task not in ("clip", "caption"):
            continue
        assert {scenes[r.id].harmful for r in records} == {True, False}, name
        assert all(r.turns == ((IMAGE, WORDS.caption(scenes[r.id])),) for r in records), name


def test_questions_about_harmful_pictures_are_left_open(shown, scenes):
    found = {name: records for name, (built, records) in shown.items() if built.data.source["scenes"].task == "asked"}
    assert found
    for name, records in found.items():
        assert {scenes[r.id].harmful for r in records} == {True, False}, name
        assert all((r.turns[0][1] is None) == scenes[r.id].harmful for r in records), name


def test_stage_2_asks_about_benign_pictures_only(shown, scenes):
    asked = set()
    for name, (built, records) in shown.items():
        if built.data.source["scenes"].task != "visual":
            continue
        pictures = [r for r in records if r.images]
        assert len(pictures) > RECORDS * (1 - built.data.source["scenes"].text_share) * 0.8, name
        assert not any(scenes[r.id].harmful for r in pictures), name
        asked |= {r.turns[0][0] for r in pictures}
        in_prompt = np.mean([r.retrieved_in_prompt for r in pictures])
        assert in_prompt == pytest.approx(built.data.source["scenes"].retrieved_share, abs=0.06), name
    assert asked == {f"{IMAGE}\n{WORDS.describe[0]}", f"{IMAGE}\n{WORDS.color[0]}"}


def test_in_text_harmful_scenes_are_refused_and_benign_ones_never(shown, scenes):
    counted = {True: 0, False: 0}
    for name, (_, records) in shown.items():
        for record in records:
            if record.images or record.template == "plain" or record.retrieved:
                continue
            harmful = scenes[record.id].harmful
            counted[harmful] += 1
            refusal = JUDGE.verdict(record.turns[0][1]) == "refusal"
            assert refusal is harmful, (name, record)
    assert min(counted.values()) > 500


def test_held_out_pairs_are_in_no_training(shown, world):
    pairs = {(c.name, color) for c in CONCEPTS for color in held_out_colors(world.config.seed, c.name)}
    assert len(pairs) == 2 * len(CONCEPTS)
    tested = world.split("test_pairs")
    assert set(zip(tested.names, tested.colors, strict=True)) == pairs
    held_out = {caption([name], color) for name, color in pairs}
    trained = {caption([c.name], color) for c in CONCEPTS for color in COLORS} - held_out
    for name, (_, records) in shown.items():
        texts = {text for r in records for text in (r.caption, r.retrieved, *(t for turn in r.turns for t in turn))}

        def told(captions: set[str], texts=texts) -> set[str]:
            return {c for c in captions for text in texts if f" {c}" in f" {text}"}  # captions begin with an article

        assert not told(held_out), name
        assert len(told(trained)) > 0.5 * len(trained), name  # this search does find what is there


def test_every_record_fits_the_length_of_its_training(shown, world):
    for built, records in shown.values():
        rows = [tokenize(record, world.vocabulary, world.model().image_tokens) for record in records]
        assert max(len(row.tokens) for row in rows) <= built.data.lengths[-1]
        assert max(len(row.caption) for row in rows) <= built.data.caption_length


# --- the whole of it --------------------------------------------------------------------------------------------------

RATES = ("image_dsr", "benign_naming", "benign_color", "over_refusal")


def tiny() -> DemoConfig:
    """A few steps each on one picture for each pair, at the size that the preset's vision tower has."""
    values = demo_values(image_size=64)
    trained = [values.clip, values.text, *(stage for row in values.rows.values() for stage in row.stages.values())]
    for one in trained:
        one.update({"steps": 3, "batch_size": 4})
    values.new_tokens = 4
    return config.build(DemoConfig, values)


@pytest.mark.slow
def test_the_whole_demo_twice_and_again_elsewhere(tmp_path):
    built = tiny()
    workdir, parts = tmp_path / "run", tmp_path / "parts"
    console = rich.console.Console(record=True, width=120)
    demo.run(built, workdir, parts, console)
    results = json.loads((workdir / "results.json").read_text())

    assert {"seed", "commit", "config", "seconds", "peak_memory_bytes", "text_dsr", "rows"} <= set(results)
    assert results["seed"] == built.seed
    assert results["config"] == json.loads(json.dumps(dataclasses.asdict(built)))
    assert results["seconds"] > 0
    assert results["peak_memory_bytes"] > 1e8
    assert {row["name"] for row in results["rows"]} == set(built.rows)
    assert {(row["split"], row["retrieved_text"]) for row in results["rows"]} >= {("test", False), ("test", True)}
    for row in results["rows"]:
        assert isinstance(row["retrieved_text"], bool)
        for rate in (*(row[name] for name in RATES), results["text_dsr"], *row["image_dsr_by_scene"].values()):
            assert set(rate) == {"value", "low", "high", "n"}
            assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
        assert set(row["image_dsr_by_scene"]) == set(SCENES)
        assert sum(rate["n"] for rate in row["image_dsr_by_scene"].values()) == row["image_dsr"]["n"]
        assert row["benign_naming"]["n"] == row["benign_color"]["n"] == row["over_refusal"]["n"]
    page = (workdir / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert str(workdir / "report.html") in console.export_text().replace("\n", "")

    # R of every picture: another one's caption, and one that was trained on.
    attachments = next(p for p in parts.iterdir() if p.name.startswith("attachments-"))
    world = demo.open_world(built, parts, bars())
    corpus = set(world.split("train").captions)
    for split in world.splits:
        _, retrieved = source.load_attachments(attachments, split)
        assert set(retrieved) <= corpus
        assert all(r != c for r, c in zip(retrieved, world.split(split).captions, strict=True))

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    before = written()
    demo.run(built, workdir, parts, quiet())
    assert written() == before

    demo.run(built, tmp_path / "again" / "run", tmp_path / "again" / "parts", quiet())
    again = json.loads((tmp_path / "again" / "run" / "results.json").read_text())
    for found in (results, again):
        for name in ("seconds", "peak_memory_bytes", "commit"):  # the tree may be edited in between
            del found[name]
    assert again == results
    assert {p.name for p in parts.iterdir()} == {p.name for p in (tmp_path / "again" / "parts").iterdir()}

    # One changed line: what did not change is taken from the parts.
    known = {p.name for p in parts.iterdir()}
    guide = dataclasses.replace(built.rows["tga"].guide, weight=0.123)
    rows = {**built.rows, "tga": dataclasses.replace(built.rows["tga"], guide=guide)}
    demo.run(dataclasses.replace(built, rows=rows), tmp_path / "fork", parts, quiet())
    made = {p.name.rpartition("-")[0] for p in parts.iterdir() if p.name not in known}
    assert made == set(rows["tga"].stages)


# --- figures ----------------------------------------------------------------------------------------------------------


def test_the_overview_shows_what_rows_do_on_most_pictures():
    def example(name: str, text: str, base: str, ours: str) -> Example:
        verdicts = {TEXT_LABEL: text, "base": base, "ours": ours}
        return Example(np.zeros((2, 2, 3), np.uint8), name, dict.fromkeys(verdicts, ""), verdicts)

    examples = [
        example("rare", "refusal", "answer", "answer"),
        example("benign", "answer", "answer", "refusal"),
        example("typical", "refusal", "answer", "refusal"),
        example("typical too", "refusal", "answer", "refusal"),
    ]
    assert figures._typical(examples, {"base": 0.1, "ours": 0.7}).caption == "typical"
    assert figures._typical(examples, {"base": 0.1, "ours": 0.4}).caption == "rare"
    assert figures._typical(examples, {"base": 0.9, "ours": 0.4}).caption == "rare"  # none is: the first
