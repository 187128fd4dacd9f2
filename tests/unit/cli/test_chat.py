"""Talking to a run's model through a pipe, with one message, and from Python."""

from pathlib import Path
from typing import Any

import pytest

from luthier import open_run
from luthier.errors import DataError
from luthier.models.generate import Generated
from luthier.pipeline.conversation import Conversation


def test_a_pipe_gets_the_answer_and_nothing_else(luthier: Any, done: Path) -> None:
    one = luthier("chat", done, "-m", "The drum 3 is broken.")
    piped = luthier("chat", done, typed=b"The drum 3 is broken.\n")
    assert piped.code == 0
    assert piped.out == one.out
    assert piped.out.strip()


def test_a_conversation_goes_on_until_it_is_reset(luthier: Any, done: Path) -> None:
    line = b"The drum 3 is broken.\n"
    alone = luthier("chat", done, typed=line).out
    talk = luthier("chat", done, typed=line + b"\n  \n/reset\n" + line + b"/bye\nnever asked\n").out
    assert talk == alone + alone


def test_what_is_not_utf8_is_still_a_question(luthier: Any, done: Path) -> None:
    assert luthier("chat", done, typed=b"caf\xe9?\n").code == 0


def test_as_a_document(luthier: Any, done: Path) -> None:
    document = luthier("chat", done, "-m", "hello", "--json").document
    assert {"status", "run", "artifacts", "metrics", "answer", "stopped", "model"} <= document.keys()
    assert Path(document["model"]).name == "model"
    base = luthier("chat", done, "-m", "hello", "--json", "--base").document
    assert base["model"] != document["model"]
    refused = luthier("chat", done, "--json")
    assert refused.code == 2
    assert "--json needs --message" in refused.err


def test_a_run_without_a_model(luthier: Any, recipe: Path) -> None:
    luthier("plan")
    said = luthier("chat")
    assert said.code == 3
    assert "the run has no model yet" in said.err


def test_a_run_that_is_trained_but_not_released(luthier: Any, recipe: Path) -> None:
    luthier("train")
    document = luthier("chat", "-m", "hello", "--json").document
    assert document["model"] == document["artifacts"]["model"]


def test_the_pieces_are_the_answer(done: Path) -> None:
    talk = Conversation(open_run(done))
    pieces: list[str] = []
    answer = talk.ask("Please replace lamp 7.", pieces.append)
    assert isinstance(answer, Generated)
    assert "".join(pieces) == answer.text
    assert not any(piece.endswith("\N{REPLACEMENT CHARACTER}") for piece in pieces[:-1])


def test_a_conversation_that_fills_the_context_says_so(luthier: Any, done: Path) -> None:
    talk = Conversation(open_run(done))
    with pytest.raises(DataError, match="the model's context ends at 256"):
        talk.ask("word " * 300)
    assert talk.ask("The drum 3 is broken.").text == Conversation(open_run(done)).ask("The drum 3 is broken.").text
    said = luthier("chat", done, typed=b"word " * 300 + b"\nThe drum 3 is broken.\n")
    assert said.code == 0
    assert "/reset starts over" in said.err
    assert said.out.strip()


def test_both_models_answer_when_compared(luthier: Any, done: Path) -> None:
    line = b"The drum 3 is broken.\n"
    tuned, base = (luthier("chat", done, *more, typed=line).out for more in ((), ("--base",)))
    both = luthier("chat", done, typed=b"/compare\n" + line + b"/compare\n/reset\n" + line)
    assert both.out == f"tuned: {tuned}base: {base}{tuned}"


def test_an_adapters_base_is_not_loaded_twice(luthier: Any, body: Any, tmp_path: Path) -> None:
    import scenes

    body["tuning"], body["release"] = {"kind": "lora", "rank": 4}, {"merge": False}
    scenes.write_recipe(tmp_path / "recipe.yaml", body)
    run = Path(luthier("train", "recipe.yaml", "--json").document["run"])
    talk = Conversation(open_run(run))
    other = talk.beside()
    assert other._model is talk._model
    line = "My phone 7 never came."
    assert other.ask(line).text == Conversation(open_run(run), base=True).ask(line).text
    assert talk.ask(line).text == Conversation(open_run(run)).ask(line).text


def test_the_system_message_can_be_changed(luthier: Any, done: Path) -> None:
    line = b"The drum 3 is broken.\n"
    said = luthier("chat", done, typed=b"/system Be brief.\n" + line + b"/system\n/nonsense\n")
    assert said.out.strip()
    assert "Be brief." in said.err
    assert "there is no command /nonsense" in said.err
    talk = Conversation(open_run(done))
    talk.system = "Be brief."
    assert said.out == talk.ask(line.decode().strip()).text + "\n"


def test_a_question_that_one_side_cannot_answer_is_forgotten_by_both(luthier: Any, done: Path) -> None:
    line = b"The drum 3 is broken.\n"  # the base goes on to the end of its context, so it has no room for a second one
    both = luthier("chat", done, typed=b"/compare\n" + line + line + b"/compare\n" + line)
    once = luthier("chat", done, typed=line + line)
    assert "/reset starts over" in both.err
    assert both.out.splitlines()[-1] == once.out.splitlines()[-1]
