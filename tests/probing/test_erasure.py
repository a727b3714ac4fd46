"""LEACE takes out exactly what linear probes can tell, and nothing else."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from grammar_lens.errors import GrammarLensError
from grammar_lens.probing.erasure import erasure_table, leace, remove_directions
from grammar_lens.probing.probe_words import ProbeWords

N_UNITS, SIGNAL = 12, 2


def words(seed: int, n: int, planted: float = 3.0) -> ProbeWords:
    """Three classes told by their means in a mixed plane; noise is correlated; two units are apart.

    The last two units are independent of all others and of the classes.
    """
    mixing = np.random.default_rng(99).normal(size=(N_UNITS - 2, N_UNITS - 2))
    rng = np.random.default_rng(seed)
    classes = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    means = np.array([[0, 0], [1, 0], [0.3, 1]]) * planted
    noise = rng.normal(size=(n, N_UNITS))
    noise[:, :SIGNAL] += means[classes]
    noise[:, :-2] = noise[:, :-2] @ mixing
    return ProbeWords(noise + 5, classes, ("w",) * n)


def class_means(features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    return np.array([features[classes == c].mean(0) for c in np.unique(classes)])


@pytest.fixture(scope="module")
def train() -> ProbeWords:
    return words(1, 3000)


class TestLeace:
    def test_all_classes_have_the_same_mean(self, train) -> None:
        """To 1e-8 of the sd; before, they are several sd apart."""
        erased = leace(train.features, train.classes, 3)(train.features)
        sd = train.features.std(0)
        assert (np.ptp(class_means(train.features, train.classes), 0) / sd).max() > 1
        assert (np.ptp(class_means(erased, train.classes), 0) / sd).max() < 1e-8
        np.testing.assert_allclose(erased.mean(0), train.features.mean(0), rtol=1e-9)

    def test_a_linear_probe_is_left_with_the_majority(self, train) -> None:
        erased = leace(train.features, train.classes, 3)(train.features)
        majority = np.bincount(train.classes).max() / len(train.classes)
        for features, told in ((train.features, True), (erased, False)):
            probe = LogisticRegression(max_iter=500).fit(features - 5, train.classes)
            found = probe.score(features - 5, train.classes)
            assert found > 0.9 if told else found == majority

    def test_it_changes_less_than_taking_out_the_mean_differences(self, train) -> None:
        """Both leave all class means equal; LEACE is the nearest such map in every norm."""
        x, y = train.features, train.classes
        means = class_means(x, y)
        plain = remove_directions(x - x.mean(0), means - means[:1]) + x.mean(0)
        erased = leace(x, y, 3)(x)
        assert (np.ptp(class_means(plain, y), 0)).max() < 1e-8
        assert ((erased - x) ** 2).sum() < ((plain - x) ** 2).sum()
        for weight in np.random.default_rng(3).normal(size=(5, N_UNITS)):
            assert (((erased - x) @ weight) ** 2).sum() <= (((plain - x) @ weight) ** 2).sum()

    def test_it_is_the_formula(self, train) -> None:
        """Second opinion: x - W+ P W (x - mean) with scipy's matrix root and NumPy's pinv."""
        from scipy.linalg import sqrtm

        x, z = train.features, np.eye(3)[train.classes]
        centred = x - x.mean(0)
        w = np.linalg.pinv(np.real(sqrtm(centred.T @ centred / len(x))))
        a = w @ (centred.T @ (z - z.mean(0)) / len(x))
        p = a @ np.linalg.pinv(a, rcond=1e-9)
        expected = x - centred @ (np.linalg.pinv(w) @ p @ w).T
        eraser = leace(x, train.classes, 3)
        np.testing.assert_allclose(eraser(x), expected, atol=1e-8)
        assert eraser.rank == 2, "three means span a plane"

    def test_what_tells_nothing_is_left_alone(self) -> None:
        """Units that exactly do not covary with the others or the classes do not change."""
        half = words(4, 400)
        x = np.concatenate([half.features, half.features * np.repeat([1, -1], [10, 2])])
        y = np.tile(half.classes, 2)
        erased = leace(x, y, 3)(x)
        np.testing.assert_allclose(erased[:, -2:], x[:, -2:], atol=1e-10)
        assert np.abs(erased - x)[:, :-2].max() > 1

    def test_dependent_units_do_no_harm(self, train) -> None:
        x = np.concatenate([train.features, train.features[:, :3] * 2], 1)
        erased = leace(x, train.classes, 3)(x)
        assert np.ptp(class_means(erased, train.classes), 0).max() < 1e-6
        np.testing.assert_allclose(erased[:, -3:], 2 * erased[:, :3], atol=1e-6)

    def test_a_label_without_words_changes_nothing(self, train) -> None:
        few, more = (leace(train.features, train.classes, n)(train.features) for n in (3, 7))
        np.testing.assert_allclose(few, more, atol=1e-9)

    def test_one_class_is_refused(self, train) -> None:
        with pytest.raises(GrammarLensError, match="fewer than 2 classes"):
            leace(train.features, np.ones_like(train.classes), 3)


class TestRemoveDirections:
    def test_nothing_is_left_in_the_span_and_all_outside_it(self) -> None:
        rng = np.random.default_rng(0)
        x, directions = rng.normal(size=(20, 6)), rng.normal(size=(2, 6))
        directions = np.concatenate([directions, directions.sum(0, keepdims=True)])
        left = remove_directions(x, directions)
        np.testing.assert_allclose(left @ directions.T, 0, atol=1e-12)
        # second opinion: the residual of least squares on the directions
        fitted = np.linalg.lstsq(directions.T, x.T, rcond=None)[0]
        np.testing.assert_allclose(left, x - (directions.T @ fitted).T, atol=1e-12)

    def test_no_directions_no_change(self) -> None:
        x = np.random.default_rng(0).normal(size=(4, 6))
        np.testing.assert_array_equal(remove_directions(x, np.zeros((0, 6))), x)


class TestErasureTable:
    def test_the_planted_plane_carries_all_that_the_probe_tells(self, train) -> None:
        """Without the plane of the class means nothing is left; without random planes, most is."""
        means = class_means(train.features, train.classes)
        rng = np.random.default_rng(5)
        random = [rng.normal(size=(2, N_UNITS)) for _ in range(3)]
        got = erasure_table(train, words(2, 2000), means[1:] - means[:1], random)
        assert got.rank == got.leace_rank == 2
        assert got.accuracy > 0.9
        for left in (got.key_removed_accuracy, got.leace_accuracy):
            assert abs(left - got.majority_accuracy) < 0.02
        assert min(got.random_removed_accuracies) > got.majority_accuracy + 0.2
        frame = got.to_frame()
        assert frame.removed.tolist() == ["nothing", "key", *["random"] * 3, "leace"]
        assert frame["rank"].tolist() == [0, 2, 2, 2, 2, 2]
        assert frame.accuracy[0] == got.accuracy

    def test_nothing_planted_nothing_to_take(self) -> None:
        """Four binomial standard errors at 2,000 words."""
        train, fresh = words(6, 3000, planted=0.0), words(7, 2000, planted=0.0)
        got = erasure_table(train, fresh, np.eye(N_UNITS)[:2], [np.eye(N_UNITS)[2:4]])
        for found in (got.accuracy, got.key_removed_accuracy, got.leace_accuracy):
            assert abs(found - got.majority_accuracy) < 4 * np.sqrt(0.25 / 2000)

    def test_without_random_directions(self, train) -> None:
        got = erasure_table(train, train, np.eye(N_UNITS)[:1])
        assert got.random_removed_accuracies == ()
        assert got.leace_accuracy == got.majority_accuracy, "exactly, on the training words"

    def test_another_rank_is_refused(self, train) -> None:
        with pytest.raises(
            GrammarLensError, match="span 1 dimensions and the key directions 2: give"
        ):
            erasure_table(train, train, np.eye(N_UNITS)[:2], [np.ones((2, N_UNITS))])
