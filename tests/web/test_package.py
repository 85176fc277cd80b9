"""The npm package in node: the answers of the native engine, and everything inside the one module."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soxr

from edge_ser import EmotionRecognizer
from edge_ser._version import __version__
from edge_ser.arrays import Float32Array
from edge_ser.personal.profile import Profile
from tests.conftest import ROOT
from tests.needs import need
from tests.web.conftest import build
from tests.web.node import floats, run_script


@pytest.fixture(scope="module")
def recognizer(native_library: Path) -> EmotionRecognizer:
    return EmotionRecognizer(backend="native")


@pytest.fixture(scope="module")
def module(built: Path) -> Path:
    return built / "npm" / "edge-ser.js"


def test_it_packs_one_module_types_and_licences_below_a_megabyte(built: Path) -> None:
    need("npm")
    done = subprocess.run(
        ["npm", "pack", "--dry-run", "--json"], cwd=built / "npm", capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (packed,) = json.loads(done.stdout)
    assert sorted(file["path"] for file in packed["files"]) == [
        "LICENSE", "NOTICE", "README.md", "edge-ser.d.ts", "edge-ser.js", "package.json",
    ]  # fmt: skip
    assert packed["unpackedSize"] < 1_000_000
    about = json.loads((built / "npm" / "package.json").read_text())
    assert about["version"] == __version__
    assert not {"dependencies", "peerDependencies", "scripts"} & about.keys()


def test_the_module_asks_for_nothing(module: Path) -> None:
    text = module.read_text()
    assert "import " not in text.replace("importProfile", "")
    for name in ("fetch(", "XMLHttpRequest", "WebSocket", "import.meta", "importScripts"):
        assert name not in text
    body = """
        const text = readFileSync(%s, "utf8");
        const bytes = Uint8Array.from(atob(/WASM =\\s+"([^"]+)"/.exec(text)[1]), (c) => c.charCodeAt(0));
        return WebAssembly.Module.imports(new WebAssembly.Module(bytes));
    """
    assert run_script(module, body % json.dumps(str(module))) == []


@pytest.mark.slow
def test_the_same_sources_give_the_same_bytes(built: Path, tmp_path: Path) -> None:
    build(tmp_path)
    files = [path.relative_to(built) for path in sorted(built.rglob("*")) if path.is_file()]
    assert [(tmp_path / name).read_bytes() for name in files] == [(built / name).read_bytes() for name in files]


def test_answers_are_those_of_native_c_whole_and_in_chunks(
    module: Path, recognizer: EmotionRecognizer, samples: Float32Array, tmp_path: Path
) -> None:
    short, long = samples[20000:24000], np.tile(samples, 5)
    given = [floats(tmp_path / f"{i}.f32", part) for i, part in enumerate((samples, short, long))]
    body = """
        const stream = recognizer.stream();
        const whole = samples(FILES[0]);
        const early = [];
        for (let at = 0, n = 1; at < whole.length; at += n, n = (n * 5 + 37) % 997) {
            stream.feed(whole.subarray(at, at + n));
            if (n % 5 === 0) early.push([at + n, stream.estimate && plain(stream.estimate)]);
        }
        const answers = FILES.map((name) => plain(recognizer.predict(samples(name))));
        return { answers, streamed: plain(stream.finish()), early };
    """
    found = run_script(module, f"const FILES = [{', '.join(given)}];{body}")
    for answer, audio in zip([*found["answers"], found["streamed"]], (samples, short, long, samples), strict=True):
        expected = recognizer.predict((audio, 16000))
        assert answer["logits"] == expected.logits.tolist()
        assert answer["embedding"] == expected.embedding.tolist()
        assert answer["label"] == expected.label
        assert answer["durationS"] == pytest.approx(expected.duration_s)
        assert list(answer["probabilities"].values()) == pytest.approx(list(expected.probabilities.values()), abs=1e-6)
        assert answer["confidence"] == pytest.approx(expected.confidence, abs=1e-6)
        assert answer["speech"] == pytest.approx(expected.speech, abs=1e-5)
    stream, fed = recognizer.stream(), 0
    assert {answer is None for _, answer in found["early"]} == {True, False}
    for position, answer in found["early"]:
        stream.feed(samples[fed:position])
        fed = position
        expected_now = stream.estimate
        assert (answer and answer["logits"]) == (expected_now and expected_now.logits.tolist())


@pytest.mark.parametrize("rate_hz", [8000, 22050, 44100, 48000])
def test_other_rates_sound_the_same(
    module: Path, recognizer: EmotionRecognizer, samples: Float32Array, rate_hz: int, tmp_path: Path
) -> None:
    audio = soxr.resample(samples, 16000, rate_hz)
    body = f"""
        const audio = samples({floats(tmp_path / "audio.f32", audio)});
        const stream = recognizer.stream({rate_hz});
        for (let at = 0; at < audio.length; at += 701) stream.feed(audio.subarray(at, at + 701));
        return [plain(recognizer.predict(audio, {rate_hz})), plain(stream.finish())];
    """
    whole, streamed = run_script(module, body)
    expected = recognizer.predict((audio, rate_hz))
    assert whole["logits"] == streamed["logits"]
    assert whole["label"] == expected.label
    assert list(whole["probabilities"].values()) == pytest.approx(list(expected.probabilities.values()), abs=0.03)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100, 48000])
def test_only_the_middle_of_a_long_recording_is_resampled(
    module: Path, samples: Float32Array, rate_hz: int, tmp_path: Path
) -> None:
    """The answer has the bits of the whole, resampled and then cut; no copy is longer than the middle and the kernel's reach."""
    resampler = json.dumps((ROOT / "web" / "src" / "resampler.js").as_uri())
    body = f"""
        const audio = samples({floats(tmp_path / "audio.f32", np.tile(samples, 1 + 40 * rate_hz // len(samples)))});
        const set = Float32Array.prototype.set;
        let longest = 0;
        Float32Array.prototype.set = function (values, at) {{
            longest = Math.max(longest, values.length);
            set.call(this, values, at);
        }};
        const answer = plain(recognizer.predict(audio, {rate_hz}));
        Float32Array.prototype.set = set;
        const {{ Resampler }} = await import({resampler});
        const whole = new Resampler({rate_hz});
        const at16k = Float32Array.from([...whole.push(audio), ...whole.flush()]);
        return [longest, answer, plain(recognizer.predict(at16k))];
    """
    longest, answer, expected = run_script(module, body)
    assert longest < 14.1 * max(rate_hz, 16000)
    assert answer == {**expected, "durationS": answer["durationS"]}
    assert answer["durationS"] > 40


def test_what_is_no_sample_is_named_and_changes_nothing(module: Path, samples: Float32Array, tmp_path: Path) -> None:
    body = f"""
        const good = samples({floats(tmp_path / "a.f32", samples)});
        const bad = [NaN, Infinity, -Infinity, 8.001, -8.001].map((value) => {{
            const audio = good.slice();
            audio[audio.length - 1] = value;
            return audio;
        }});
        bad.push([0, 1], new Float64Array(4), undefined);
        const stream = recognizer.stream(48000);
        const segmenter = new Segmenter(48000);
        const takes = [
            (audio) => recognizer.predict(audio),
            (audio) => recognizer.features(audio),
            (audio) => stream.feed(audio),
            (audio) => segmenter.feed(audio),
        ];
        const refused = takes.map((take) => bad.map((audio) => why(() => take(audio))));
        const other = [recognizer.stream(48000), new Segmenter(48000)];
        const found = [[stream, segmenter], other].map(([one, two]) => {{
            one.feed(good);
            return [plain(one.finish()), two.feed(good), two.finish(), two.levelDb];
        }});
        return [refused, found];
    """
    refused, (after, untouched) = run_script(module, body)
    last = f"sample {len(samples) - 1} is "
    expected = [f"{last}{value}" for value in ("NaN", "Infinity", "-Infinity", "8.001", "-8.001")] + ["expected samples as a"] * 3
    for lines in refused:
        assert [line.startswith(start) for start, line in zip(expected, lines, strict=True)] == [True] * 8, lines
    assert after == untouched


def test_noise_is_no_speech(module: Path, recognizer: EmotionRecognizer, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 48000).astype(np.float32)
    found = run_script(module, f"return plain(recognizer.predict(samples({floats(tmp_path / 'noise.f32', noise)})));")
    assert found["label"] == recognizer.predict((noise, 16000)).label == "no_speech"


@pytest.mark.parametrize("labels", [("happy", "sad", "happy", "angry", "neutral", "sad"), ("tired", "awake", "tired", "happy")])
def test_a_person_is_the_same_here_and_in_python(
    module: Path, recognizer: EmotionRecognizer, samples: Float32Array, labels: tuple[str, ...], tmp_path: Path
) -> None:
    """What one learnt the other reads, and both answer alike; every part of the recording stands for an utterance."""
    parts = [samples[9000 * i : 9000 * i + 20000] for i in range(len(labels))]
    profile = Profile()
    for part, label in zip(parts, labels, strict=True):
        recognizer.profile = profile
        answer = recognizer.predict((part, 16000))
        profile = recognizer.adapt(answer, label)
    profile.save(tmp_path / "python.json")
    expected = recognizer.predict((samples, 16000))
    recognizer.profile = Profile()
    names = [floats(tmp_path / f"{i}.f32", part) for i, part in enumerate(parts)]
    body = f"""
        const whole = samples({floats(tmp_path / "whole.f32", samples)});
        const before = plain(recognizer.predict(whole));
        [{", ".join(names)}].forEach((name, i) => recognizer.adapt(samples(name), {json.dumps(labels)}[i]));
        const after = plain(recognizer.predict(whole));
        const profile = recognizer.exportProfile();
        const {{ learnt, labels }} = recognizer;
        recognizer.forget();
        const forgotten = plain(recognizer.predict(whole));
        recognizer.importProfile(readFileSync({json.dumps(str(tmp_path / "python.json"))}, "utf8"));
        recognizer.forget(1);
        const fewer = recognizer.learnt;
        recognizer.importProfile(profile);
        return {{ before, after, forgotten, profile, learnt, labels, fewer, imported: plain(recognizer.predict(whole)) }};
    """
    found = run_script(module, body)
    assert json.loads(found["profile"]) == json.loads((tmp_path / "python.json").read_text())
    assert found["after"]["probabilities"] == pytest.approx(expected.probabilities, abs=1e-4)
    assert found["after"]["logits"] == expected.logits.tolist()
    assert found["after"]["probabilities"] != found["before"]["probabilities"]
    assert found["forgotten"] == found["before"]
    assert found["imported"] == found["after"]
    assert found["labels"] == list(expected.probabilities)
    assert sum(found["learnt"].values()) == sum(found["fewer"].values()) + 1 == len(labels)


def test_what_was_learnt_is_kept_where_it_is_told(module: Path, samples: Float32Array, tmp_path: Path) -> None:
    body = f"""
        const kept = new Map();
        const storage = {{
            setItem: (key, value) => kept.set(key, value),
            getItem: (key) => kept.get(key) ?? null,
            removeItem: (key) => kept.delete(key),
        }};
        const spoken = samples({floats(tmp_path / "a.f32", samples)});
        for (const word of [" Sad ", "Straße", "STRASSE"]) recognizer.adapt(spoken, word);
        recognizer.save("me", storage);
        const other = await Recognizer.create();
        const found = [other.restore("nobody", storage), other.restore("me", storage), other.learnt];
        other.forget();
        other.save("me", storage);
        return [...found, kept.size];
    """
    assert run_script(module, body) == [False, True, {"sad": 1, "Straße": 2}, 0]


def test_what_cannot_be_answered_is_named(module: Path, samples: Float32Array, tmp_path: Path) -> None:
    noise = floats(tmp_path / "noise.f32", np.random.default_rng(0).normal(0, 0.05, 48000))
    body = f"""
        const good = samples({floats(tmp_path / "a.f32", samples)});
        const known = JSON.parse(recognizer.exportProfile());
        const closed = recognizer.stream();
        closed.close();
        const finished = recognizer.stream();
        finished.feed(good);
        finished.finish();
        return [
            () => recognizer.predict([0, 1]),
            () => recognizer.predict(good, 16000.5),
            () => recognizer.predict(new Float32Array(16000)),
            () => recognizer.predict(new Float32Array(0)),
            () => recognizer.predict(Float32Array.from(good, (v) => v * 32768)),
            () => recognizer.predict(Float32Array.from(good, () => NaN)),
            () => recognizer.adapt(good, "no_speech"),
            () => recognizer.adapt(good, " "),
            () => recognizer.adapt({{}}, "sad"),
            () => recognizer.adapt(samples({noise}), "sad"),
            () => recognizer.forget(1),
            () => recognizer.importProfile("{{"),
            () => recognizer.importProfile(JSON.stringify({{ ...known, format_version: 3 }})),
            () => recognizer.importProfile(JSON.stringify({{ ...known, person: {{ weights_sha256: "x" }} }})),
            () => recognizer.save(),
            () => closed.feed(good),
            () => finished.feed(good),
            () => new Recognizer(),
        ].map(why);
    """
    expected = [
        *("Float32Array", "16000.5", "silent", "without a sample", "divide int16", "NaN"),
        *("no_speech", "a word", "takes a prediction", "no speech", "no utterance 1"),
        *("no JSON", "version 3", "another model", "no localStorage", "is closed", "has finished", "await Recognizer.create"),
    ]
    found = run_script(module, body)
    assert [part in str(line) for part, line in zip(expected, found, strict=True)] == [True] * len(expected), found


def test_closed_streams_give_their_memory_back(module: Path, samples: Float32Array, tmp_path: Path) -> None:
    body = f"""
        const part = samples({floats(tmp_path / "a.f32", samples[:16000])});
        const answers = new Set();
        for (let i = 0; i < 300; i++) {{
            const streams = [recognizer.stream(), recognizer.stream()];
            streams.forEach((stream) => stream.feed(part.subarray(0, 320)));
            streams.forEach((stream) => stream.close());
        }}
        for (let i = 0; i < 3; i++) answers.add(JSON.stringify(plain(recognizer.predict(part))));
        return [answers.size, process.memoryUsage().arrayBuffers];
    """
    n_answers, n_bytes = run_script(module, body)
    assert n_answers == 1
    assert n_bytes < 8_000_000


def test_the_segmenter_finds_what_stands_between_pauses(module: Path, samples: Float32Array, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    room = [rng.normal(0, 1e-3, 24000).astype(np.float32) for _ in range(3)]
    audio = np.concatenate([room[0], samples, room[1], samples, room[2]])
    body = f"""
        const audio = samples({floats(tmp_path / "a.f32", audio)});
        const found = (size) => {{
            const segmenter = new Segmenter();
            const utterances = [];
            const take = (events) => {{
                for (const event of events) {{
                    if (event.type === "start") utterances.push({{ start: event.start, n: 0 }});
                    if (event.type === "audio") utterances.at(-1).n += event.samples.length;
                    if (event.type === "end") utterances.at(-1).stop = event.stop;
                }}
            }};
            for (let at = 0; at < audio.length; at += size) take(segmenter.feed(audio.subarray(at, at + size)));
            take(segmenter.finish());
            return utterances;
        }};
        return [found(512), found(777)];
    """
    one, other = run_script(module, body)
    assert one == other
    assert len(one) == 2
    for utterance, begin in zip(one, (24000, 48000 + len(samples)), strict=True):
        assert utterance["n"] == utterance["stop"] - utterance["start"]
        assert abs(utterance["start"] - begin) < 8000
        assert abs(utterance["stop"] - begin - len(samples)) < 8000
