"""Reading, measuring, completing, writing."""

from __future__ import annotations

import copy
import pathlib
import pickle

import lstmc
import numpy as np
import pytest
from conftest import SMALL, TINY, WORDS


def test_perplexity_is_that_of_the_command_line(small: lstmc.Model, text: pathlib.Path) -> None:
    # As ONNX Runtime and the interpreter have it: testdata/ptb-small/recorded.json.
    assert abs(small.eval(text, progress=False).perplexity - 104.8041) < 2e-4
    lines = text.read_text().splitlines()
    found = small.eval(lines, progress=False)
    assert found.perplexity == small.eval(text, progress=False).perplexity == float(found)
    tokens = small.encode(text.read_text())
    of_tokens = small.eval(tokens, progress=False)
    assert np.isclose(of_tokens.perplexity, found.perplexity, rtol=1e-9)
    assert np.isnan(of_tokens.bits_per_byte) and of_tokens.predicted == len(tokens) - 1


def test_engines_and_sentences_agree(tiny: lstmc.Model) -> None:
    lines = ["the market was up", "the market was down in the week"]
    jit, interpreter = (tiny.eval(lines, engine=e, progress=False) for e in ("jit", "interpreter"))
    assert np.isclose(jit.perplexity, interpreter.perplexity, rtol=1e-5)
    assert tiny.eval(iter(lines), sentences=True, progress=False).tokens > 0
    with pytest.raises(ValueError, match="engine: 'x'"):
        tiny.eval(lines, engine="x")


def test_scores_are_those_of_steps(tiny: lstmc.Model) -> None:
    tokens = np.array([1, 5, 9, 4, 4, 30])
    scores = tiny.score(tokens)
    session = tiny.session()
    for before, after, score in zip(tokens, tokens[1:], scores):
        logits = session.step(int(before)).astype(np.float64)
        assert np.isclose(logits[after] - np.log(np.exp(logits).sum()), score, atol=1e-5)
    assert np.allclose(tiny.session().score(list(tokens)), scores, atol=1e-6)
    one, two = tiny.score([tokens, tokens[:3]])
    assert np.allclose(one, scores, atol=1e-5) and np.allclose(two, scores[:2], atol=1e-5)


def test_top_k_and_suggestions(tiny: lstmc.Model) -> None:
    ids, scores = tiny.top_k([3, 4], 4)
    again = tiny.session()
    again.advance(3)
    other, _ = again.top_k(4, 4)
    assert (ids == other).all() and ids.dtype == np.uint32 and (np.diff(scores) <= 0).all()
    assert len(tiny.top_k([3], 100)[0]) == tiny.words
    words = tiny.suggest("the", 3)
    assert len(words) == 3 and all(0 < p < 1 for _, p in words)
    assert all(w.startswith("t") for w, _ in tiny.suggest("the", 3, prefix="t"))
    with pytest.raises(ValueError, match="at least one"):
        tiny.top_k([])


def test_generation_repeats_with_its_seed(tiny: lstmc.Model) -> None:
    one, two = (tiny.generate("the", tokens=8, seed=7) for _ in range(2))
    assert one == two and one.startswith("the")
    with pytest.raises(lstmc.Error):
        tiny.generate("the", temperature=-1.0)


def test_logits_are_a_view_that_lives_as_long_as_it_is_used(tiny: lstmc.Model) -> None:
    model = lstmc.load(tiny.to_bytes())
    session = model.session()
    first = session.step(3)
    kept = first.copy()
    assert not first.flags.writeable
    with pytest.raises(ValueError):
        first[0] = 1.0
    second = session.step(4)
    assert (first == second).all() and not (first == kept).all()
    del session, model
    assert np.isfinite(second).all() and second.shape == (32,)


def test_states_are_saved_and_restored(tiny: lstmc.Model) -> None:
    session = tiny.session()
    session.step(3)
    saved, state = session.save(), session.state
    assert {k: v.shape for k, v in state.items()} == {"h0": (8,), "c0": (8,)}
    wanted = session.step(4).copy()
    session.reset()
    session.restore(saved)
    assert (session.step(4) == wanted).all()
    with pytest.raises(lstmc.Error):
        session.restore(saved[:-1])


def test_samples_follow_the_seed(tiny: lstmc.Model) -> None:
    def drawn() -> list[int]:
        session = tiny.session()
        session.seed(3)
        return [session.sample(1, temperature=0.9, top_k=5) for _ in range(5)]

    assert drawn() == drawn()
    assert tiny.session().sample(1, temperature=0.0) == tiny.top_k([1], 1)[0][0]


def test_streams_take_steps_together(tiny: lstmc.Model) -> None:
    streams = tiny.streams(3)
    logits = streams.step([1, 2, 3])
    assert len(streams) == 3 and logits.shape == (3, 32) and not logits.flags.writeable
    for k in range(3):
        assert np.allclose(logits[k], tiny.session().step(k + 1), atol=1e-5)
    best, scores = streams.top_k(1, 2)
    assert np.isclose(streams.score(1, int(best[0])), scores[0])
    streams.reorder([2, 2])
    streams.copy(0, 2)
    assert np.allclose(*(streams.step([4, 4, 4])[k] for k in (0, 2)))
    streams.reset(0)
    streams.reset()
    for wrong in (lambda: streams.copy(0, 3), lambda: streams.score(9, 0), lambda: streams.reorder([0] * 4)):
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises(ValueError, match="memory"):
        tiny.streams(2**60)


def test_files_and_pickles(tiny: lstmc.Model, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "m.lstmc"
    assert tiny.save(file) == file.stat().st_size == len(tiny.to_bytes())
    for other in (lstmc.load(file), lstmc.load(str(file)), pickle.loads(pickle.dumps(tiny)), copy.copy(tiny)):
        assert other.ir() == tiny.ir() and other.vocabulary == tiny.vocabulary
        assert (other.session().step(3) == tiny.session().step(3)).all()
    found = tiny.eval(["the market"], progress=False)
    assert pickle.loads(pickle.dumps(found)).perplexity == found.perplexity


def test_export_and_build(tiny: lstmc.Model, tmp_path: pathlib.Path) -> None:
    assert tiny.export(tmp_path / "m.onnx") == []
    again = lstmc.load(tmp_path / "m.onnx", vocab=tiny.vocabulary)
    assert np.allclose(again.session().step(3), tiny.session().step(3), atol=1e-6)
    built = tiny.build(tmp_path / "lib", name="tiny", emit=["c", "header"])
    assert [p.name for p in built["files"]] == ["tiny.c", "tiny.h"] and built["weight_bytes"] > 0
    with pytest.raises(ValueError, match="emit"):
        tiny.build(tmp_path, name="x", emit=["exe"])
    with pytest.raises(lstmc.Error):
        tiny.build(tmp_path, name="not a name")


def test_words_may_be_a_list(tiny: lstmc.Model) -> None:
    words = WORDS.read_text().split("\n")[:32]
    model = lstmc.load(TINY, vocab=words)
    assert model.vocabulary == tiny.vocabulary == words
    text = " ".join(words[3:9])
    assert model.decode(model.encode(text)).split() == words[3:9]
    with pytest.raises(lstmc.Error, match="31"):
        lstmc.load(TINY, vocab=words[:-1])


def test_errors_name_the_thing(tiny: lstmc.Model, tmp_path: pathlib.Path) -> None:
    with pytest.raises(lstmc.Error, match="nowhere.onnx: cannot be read"):
        lstmc.load(tmp_path / "nowhere.onnx")
    bad = tmp_path / "bad.lstmc"
    bad.write_bytes(tiny.to_bytes()[:-3])
    with pytest.raises(lstmc.Error, match="bad.lstmc"):
        lstmc.load(bad)
    with pytest.raises(lstmc.Error):
        lstmc.load(b"hello")
    with pytest.raises(ValueError, match="cpu: there is no processor level `z80`"):
        lstmc.load(TINY, cpu="z80")
    with pytest.raises(lstmc.Error, match="token 32 is out of range"):
        tiny.session().step(32)
    with pytest.raises(ValueError, match="token 99 is out of range"):
        tiny.decode([99])
    with pytest.raises(ValueError, match="from 0 on"):
        tiny.score(np.array([-1, 3]))
    with pytest.raises(TypeError, match="integers"):
        tiny.score(np.array([0.5, 1.0]))
    with pytest.raises(TypeError, match="not both"):
        tiny.eval(["a", 3])  # type: ignore[list-item]
    with pytest.raises(lstmc.Error, match="vocabulary"):
        lstmc.load(TINY).eval(["a b"], progress=False)


def test_what_a_model_says_of_itself(small: lstmc.Model) -> None:
    assert small.words == 10_000 and small.parameters == 4_651_600 and small.nbytes == 18_606_400
    assert small.multiply_adds == 2_640_000 and small.report is None and small.recipe == ""
    assert [w["name"] for w in small.weights][0] == "embedding"
    assert "10000 words" in repr(small) and "<table>" in small._repr_html_()
    assert small.path == SMALL / "model.onnx" and small.tokenizer is not None
    assert ("quantize", dict(lstmc.passes())["quantize"]) in lstmc.passes()
