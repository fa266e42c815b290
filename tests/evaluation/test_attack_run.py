"""How an attack is run: blocks, survivors, kills, replicas."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import rest_slow
from hypothesis import given
from hypothesis import strategies as st

import keras_robust as kr
from keras_robust.core.serialization import PACKAGE
from keras_robust.evaluation import attack_run
from keras_robust.evaluation.inputs import prepare_evaluation
from keras_robust.evaluation.journal import Journal

EPSILON = 0.1


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class Creep(kr.attacks.IterativeAttack):
    """Moves every pixel up by a small amount per step, and counts the rows that it was called with."""

    threat_model: kr.core.ThreatModel
    steps: int = 100

    @property
    def name(self):
        return "creep"

    @property
    def total_steps(self):
        return self.steps

    def start(self, model_fn, images, labels, seed, targets=None):
        return {"images": images, "point": images, "broken": tf.zeros_like(labels, tf.bool)}

    def advance(self, model_fn, state, first_step, steps, seed):
        moved = tf.cast(first_step + steps, tf.float32) / self.steps * self.threat_model.epsilon
        return {**state, "point": self.threat_model.project(state["images"] + moved, state["images"])}

    def finish(self, state):
        return state["point"]


def breaks_at(level):
    """A classifier whose label is 0 while the mean pixel is at most `level`."""

    def model_fn(x):
        mean = tf.reduce_mean(x, axis=(1, 2, 3))
        return tf.stack([level - mean, mean - level], axis=1)

    return model_fn


@pytest.fixture
def problem():
    """300 flat images at different distances from the level 0.6: how far each can creep is known."""
    values = np.linspace(0.45, 0.599, 300).astype(np.float32)
    images = values[:, None, None, None] * np.ones((1, 3, 3, 1), np.float32)
    return images, np.zeros(300, np.int64)


def evaluate(problem, **options):
    options = {"batch_size": 16, "verbose": False, **options}
    attacks = options.pop("attacks", Creep(kr.Linf(EPSILON)))
    return kr.evaluate(options.pop("model", breaks_at(0.6)), problem, attacks, **options)


@given(st.integers(1, 20000))
def test_blocks_cover_all_steps_and_grow(total):
    found = list(attack_run.blocks(total))
    assert [first for first, _ in found] == np.cumsum([0, *(steps for _, steps in found)])[:-1].tolist()
    assert sum(steps for _, steps in found) == total
    sizes = [steps for _, steps in found]
    assert sizes[:-1] == sorted(sizes[:-1])
    assert len(found) <= max(30, 128 // max(1, total // 128))


def test_broken_examples_leave_between_blocks(problem, monkeypatch):
    rows = []
    by_batch = attack_run.by_batch

    def spy(function, values, batch_size):
        if isinstance(values, dict):
            rows.append(len(values["point"]))
        return by_batch(function, values, batch_size)

    monkeypatch.setattr(attack_run, "by_batch", spy)
    report = evaluate(problem, batch_size=64)
    assert rows[0] == 300
    assert rows == sorted(rows, reverse=True)
    assert len(set(rows)) > 5
    assert report.robust_accuracy == pytest.approx(np.mean(problem[0][:, 0, 0, 0] + EPSILON <= 0.6), abs=0.005)


def test_chunks_do_not_change_what_happens_to_an_example(problem):
    robust = [evaluate(problem, batch_size=size).record["details"]["creep"]["robust"] for size in (29, 64, 300)]
    assert robust[0] == robust[1] == robust[2]


@pytest.mark.parametrize("passes", [1, 2])
def test_where_passes_are_random_an_attack_is_judged_once(passes):
    """The label is right in a fifth of the passes: each judgement would be another chance to be found broken."""
    images, labels = np.full((400, 2, 2, 1), 0.5, np.float32), np.zeros(400, np.int64)

    def lucky(x):
        noise = tf.random.uniform(tf.shape(x)[:1]) - 0.8 + 0.0 * tf.reduce_sum(x, axis=(1, 2, 3))
        return tf.stack([noise, tf.zeros_like(noise)], axis=1)

    setup = prepare_evaluation(lucky, (images, labels), (0.0, 1.0), batch_size=400, verbose=False)
    attack = kr.attacks.APGD(kr.Linf(EPSILON), steps=3, eot_iter=passes)
    robust = attack_run.run_attack(attack, setup, np.zeros(400, np.int32)).robust.mean()
    assert robust == pytest.approx(0.2, abs=0.1)


def test_what_is_kept_of_an_attack_does_not_grow_with_the_data_set(problem):
    """Of chunks of 8 batches of 8 examples at most 4 broken and 8 held images each, and those that a report shows."""
    setup = prepare_evaluation(breaks_at(0.6), problem, (0.0, 1.0), batch_size=8, verbose=False)
    attack = Creep(kr.Linf(EPSILON), steps=4)
    result = attack_run.run_attack(attack, setup, setup.clean_ranks)
    assert len(result.pictures) <= 5 * 12
    samples = evaluate(problem, attacks=attack, batch_size=8).samples
    assert samples["attacked_predictions"].tolist() == [1] * 4 + [0] * 4
    held, broken = np.flatnonzero(result.robust)[:4], np.flatnonzero(~result.robust)[:4]
    np.testing.assert_array_equal(samples["images"], problem[0][[*broken, *held]])
    moved = samples["attacked"] - samples["images"]
    assert (moved[:4] > 0).all()
    np.testing.assert_allclose(moved[4:], EPSILON, rtol=1e-5)


class KilledError(Exception):
    """In place of SIGKILL."""


@pytest.mark.parametrize(
    ("attack", "saves"),
    rest_slow([("creep", 7), ("creep", 16), ("pgd", 8), ("square", 10)], [("creep", 16), ("pgd", 8)]),
)
def test_a_killed_evaluation_goes_on_and_ends_the_same(problem, tmp_path, monkeypatch, attack, saves):
    attacks = {
        "creep": Creep(kr.Linf(EPSILON)),
        "pgd": kr.attacks.PGD(kr.Linf(EPSILON), steps=1, step_size=0.02, restarts=6),
        "square": kr.attacks.Square(kr.Linf(EPSILON), queries=20),
    }[attack]
    monkeypatch.setattr(attack_run, "SECONDS_BETWEEN_SAVES", 0)
    undisturbed = evaluate(problem, attacks=attacks)
    save, count = Journal.save, 0

    def save_until_killed(self, name, arrays):
        nonlocal count
        count += 1
        if count > saves:
            raise KilledError
        save(self, name, arrays)

    monkeypatch.setattr(Journal, "save", save_until_killed)
    kills = 0
    while True:
        count = 0
        try:
            report = evaluate(problem, attacks=attacks, journal=tmp_path / "journal")
            break
        except KilledError:
            kills += 1
            assert kills < 100
    assert kills > 1
    (details,), (expected,) = report.record["details"].values(), undisturbed.record["details"].values()
    assert {**details, "seconds": 0} == {**expected, "seconds": 0}
    np.testing.assert_array_equal(report.samples["attacked"], undisturbed.samples["attacked"])


@pytest.mark.parametrize(("seconds", "saves_of_a_chunk"), [(30.0, 1), (0.0, 16)])
def test_progress_is_saved_at_the_end_of_a_chunk_and_now_and_then_before(
    problem, tmp_path, monkeypatch, seconds, saves_of_a_chunk
):
    """Sixteen blocks of one step that break nothing, in three chunks."""
    keys = []
    monkeypatch.setattr(attack_run, "SECONDS_BETWEEN_SAVES", seconds)
    monkeypatch.setattr(Journal, "save", lambda self, name, arrays: keys.append(name))
    evaluate(problem, model=breaks_at(0.9), attacks=Creep(kr.Linf(EPSILON), steps=16), journal=tmp_path)
    chunks = ("attack0-0", "attack0-1", "attack0-2")
    assert keys == [name for name in chunks for _ in range(saves_of_a_chunk)]


def test_the_journal_of_another_seed_is_refused(problem, tmp_path):
    def stop(*_):
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "save", stop)
        with pytest.raises(KilledError):
            evaluate(problem, journal=tmp_path, seed=1)
    with pytest.raises(ValueError, match="another seed"):
        evaluate(problem, journal=tmp_path, seed=2)


def test_two_replicas_share_a_batch(problem, two_replicas):
    sizes = []

    def model_fn(x):
        sizes.append(x.shape[0])
        return breaks_at(0.6)(x)

    problem = tuple(values[::5] for values in problem)
    alone = evaluate(problem)
    with two_replicas.scope():
        spread = evaluate(problem, model=model_fn)
        with pytest.raises(ValueError, match=r"divisible by the 2 replicas\. Received: 15"):
            evaluate(problem, batch_size=15)
    assert set(sizes) == {8}
    assert spread.record["details"]["creep"]["robust"] == alone.record["details"]["creep"]["robust"]


def test_replicas_draw_differently(two_replicas):
    """Where nothing breaks, PGD of a tiny step returns its random starts: no two may be alike."""
    images = np.full((8, 2, 2, 1), 0.5, np.float32)

    def flat(x):
        return tf.reduce_sum(1e-3 * x, axis=(1, 2, 3))[:, None] * [[-1.0, 1.0]] + tf.constant([[2.0, 0.0]])

    with two_replicas.scope():
        attack = kr.attacks.PGD(kr.Linf(0.1), steps=1, step_size=1e-6)
        report = evaluate((images, np.zeros(8, np.int64)), model=flat, attacks=attack, batch_size=8)
    attacked = report.samples["attacked"].reshape(8, -1)
    assert len(np.unique(attacked, axis=0)) == 8


def test_top_k_counts_the_label_among_the_k_largest():
    """Three classes at known distances: within epsilon the label falls to rank 1, but not to rank 2."""
    images = np.full((4, 2, 2, 1), 0.5, np.float32)

    def model_fn(x):
        mean = tf.reduce_mean(x, axis=(1, 2, 3))
        return tf.stack([0.0 * mean, mean - 0.55, mean - 0.8], axis=1)

    attack = kr.attacks.PGD(kr.Linf(0.1), steps=5, objective="margin")
    report = evaluate((images, np.zeros(4, np.int64)), model=model_fn, attacks=attack, top_k=2)
    assert report.robust_accuracy == 0
    top = report.record["top_k"]
    assert (top["k"], top["clean_accuracy"], top["robust_accuracy"]) == (2, 1.0, 1.0)
    assert top["attacks"] == {attack.name: 1.0}


ATTACKS_THAT_STOP = [kr.attacks.APGD(kr.Linf(0.3), 50), kr.attacks.Square(kr.Linf(0.3), queries=200)]


@pytest.mark.parametrize("attack", ATTACKS_THAT_STOP, ids=lambda attack: attack.name)
def test_an_attack_goes_on_where_the_judge_finds_an_example_right(attack):
    """Brighter images lose the label to one class at a mean of 0.505, and only at 0.7 to both: the second look at 2."""
    images = np.full((4, 2, 2, 1), 0.5, np.float32)

    def model_fn(x):
        mean = tf.reduce_mean(x, axis=(1, 2, 3))
        return tf.stack([0.0 * mean, mean - 0.505, 2.0 * mean - 1.4], axis=1)

    report = evaluate((images, np.zeros(4, np.int64)), model=model_fn, attacks=attack, top_k=2)
    assert report.robust_accuracy == 0
    assert report.record["top_k"]["robust_accuracy"] == 0


@pytest.mark.parametrize(
    ("attack", "unit"), [(Creep(kr.Linf(EPSILON), steps=8), "steps"), (kr.attacks.BIM(kr.Linf(EPSILON)), "restarts")]
)
def test_the_bar_shows_how_many_are_left_and_what_it_counts(problem, capsys, attack, unit):
    evaluate(problem, attacks=attack, verbose=True)
    output = capsys.readouterr().err
    assert f"{attack.name}, white box: 100%" in output
    assert "0 left, " in output
    assert {word for word in ("steps", "restarts") if word in output} == {unit}


@pytest.mark.parametrize(
    ("attack", "largest_block"),
    [(Creep(kr.Linf(EPSILON), steps=64), 4), (kr.attacks.PGD(kr.Linf(EPSILON), steps=1, restarts=1), 1)],
)
def test_the_bar_moves_with_every_batch(problem, monkeypatch, attack, largest_block):
    """Nothing breaks, so that all 300 examples see all steps."""
    moves = []

    class Bar(attack_run.tqdm):
        def update(self, n=1):
            moves.append(n)
            return super().update(n)

    monkeypatch.setattr(
        attack_run, "progress_bar", lambda description, total, unit, verbose: Bar(total=total, disable=False)
    )
    evaluate(problem, model=breaks_at(0.9), attacks=attack)
    assert min(moves) >= 0
    assert max(moves) <= 16 * largest_block
    assert sum(moves) == 300 * (64 if largest_block > 1 else 1)


def test_an_attack_of_one_block_is_saved_after_every_batch(problem, tmp_path, monkeypatch):
    keys = []
    monkeypatch.setattr(Journal, "save", lambda self, name, arrays: keys.append(name))
    evaluate(problem, attacks=kr.attacks.PGD(kr.Linf(EPSILON), steps=1), journal=tmp_path)
    assert keys == [f"attack0-{number}" for number in range(19)]
