"""The run folder: made once, found by what a person types, held by one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from luthier import runs
from luthier.artifact import open_artifact
from luthier.errors import DataError, RecipeError
from luthier.recipe import Recipe, build_recipe, load_recipe
from luthier.runs import Run, create_run, find_run, list_runs, open_run
from luthier.types import Metric


def recipe(name: str = "song", **sections: object) -> Recipe:
    return build_recipe({"name": name, "data": {"sources": [{"path": "rows.jsonl"}]}, **sections})


def touch(run: Run, moment: int) -> None:
    os.utime(run.folder / "run.json", (moment, moment))


def test_a_run_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    run = create_run(recipe(), tmp_path, given="name: song\n", overrides=["seed=0"])
    partial = run.store.partial("rows", "k" * 64)
    (partial / "rows.jsonl").write_text("{}\n")
    made = run.store.finish("rows", "k" * 64, {}, {})
    run.artifacts["data"] = made.folder
    run.metrics["loss"] = Metric("loss", 1.5, 1.0, 2.0, 10)
    run.status = "done"
    run.save()
    again = open_run(run.folder)
    assert (again.recipe, again.status, again.metrics) == (run.recipe, "done", run.metrics)
    assert again.artifact("data") == open_artifact(made.folder)
    given = (run.folder / "recipe.given.yaml").read_text()
    assert given == "# overrides:\n# seed=0\nname: song\n"
    assert load_recipe(run.folder / "recipe.yaml") == run.recipe


def test_the_folder_of_runs_may_be_moved(tmp_path: Path) -> None:
    run = create_run(recipe(), tmp_path / "here")
    run.store.partial("rows", "k" * 64)
    run.artifacts["data"] = run.store.finish("rows", "k" * 64, {}, {}).folder
    run.save()
    (tmp_path / "here").rename(tmp_path / "there")
    moved = open_run(tmp_path / "there" / run.name)
    moved.artifact("data").verify()


def test_the_same_recipe_is_the_same_run_and_another_one_is_not(tmp_path: Path) -> None:
    first = create_run(recipe(), tmp_path)
    first.status = "done"
    first.save()
    assert create_run(recipe(training={"epochs": 3}), tmp_path).status == "done"  # 3 is the default
    assert create_run(recipe(seed=1), tmp_path).folder != first.folder


def test_a_stage_that_was_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no 'train' yet") as caught:
        create_run(recipe(), tmp_path).artifact("train")
    assert "luthier run" in str(caught.value.fix)


def test_a_run_is_found_by_folder_name_beginning_and_last(tmp_path: Path) -> None:
    song, dance = create_run(recipe("song"), tmp_path), create_run(recipe("dance"), tmp_path)
    touch(song, 1000)
    touch(dance, 2000)
    for words in (str(song.folder), song.name, "song", "so"):
        assert find_run(words, tmp_path).folder == song.folder
    assert find_run("last", tmp_path).folder == dance.folder
    assert [run.name for run in list_runs(tmp_path)] == [dance.name, song.name]
    touch(song, 3000)
    assert find_run("last", tmp_path).folder == song.folder


def test_a_beginning_that_fits_several_runs_is_refused_with_their_names(tmp_path: Path) -> None:
    fitting = [create_run(recipe("song", seed=seed), tmp_path).name for seed in (1, 2)]
    create_run(recipe("dance"), tmp_path)
    with pytest.raises(RecipeError, match="fits 2 runs") as caught:
        find_run("song", tmp_path)
    assert all(name in caught.value.what for name in fitting)
    assert "dance" not in caught.value.what


def test_an_unknown_run_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there are no runs here yet"):
        find_run("last", tmp_path)
    known = create_run(recipe(), tmp_path).name
    with pytest.raises(RecipeError, match=known):
        find_run("opera", tmp_path)


def test_a_damaged_neighbour_is_in_nobodys_way(tmp_path: Path) -> None:
    song, dance = create_run(recipe("song"), tmp_path), create_run(recipe("dance"), tmp_path)
    (dance.folder / "run.json").write_text("{")
    assert find_run("song", tmp_path).folder == song.folder
    with pytest.raises(DataError, match="damaged"):
        find_run("dance", tmp_path)


def test_a_newer_run_and_a_folder_that_is_no_run_are_refused(tmp_path: Path) -> None:
    run = create_run(recipe(), tmp_path)
    body = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps(body | {"version": runs.VERSION + 1}))
    with pytest.raises(DataError, match="newer Luthier"):
        open_run(run.folder)
    with pytest.raises(DataError, match="not a run folder"):
        open_run(tmp_path)


HOLD = """
import sys; from pathlib import Path; from luthier.runs import open_run
with open_run(Path(sys.argv[1])).only_here():
    print("held", flush=True); sys.stdin.read()
"""


def test_a_second_process_on_one_run_is_refused(tmp_path: Path) -> None:
    run = create_run(recipe(), tmp_path)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RecipeError, match="another process") as caught, run.only_here():
            pytest.fail("two processes work on one run")
        assert caught.value.where == str(run.folder)
    finally:
        other.kill()  # a process that died holds nothing: the next one may go on
        other.communicate()
    with run.only_here():
        pass


def test_a_recipe_that_was_moved_is_looked_for_where_it_is_now(tmp_path: Path) -> None:
    create_run(recipe(), tmp_path / "runs", home=tmp_path / "before")
    assert create_run(recipe(), tmp_path / "runs", home=tmp_path / "now").home == tmp_path / "now"
