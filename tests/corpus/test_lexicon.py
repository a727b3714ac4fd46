"""The lexicon by hand, and the split of a loss into what is said of the tag and of the word."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from grammar_lens.corpus.lexicon import (
    DeviceLexicon,
    Lexicon,
    WordLosses,
    build_lexicon,
    split_losses,
)
from grammar_lens.errors import GrammarLensError

LABELS = ("NOUN", "VERB", "ADJ")
CPU = torch.device("cpu")


def random_lexicon(seed: int, vocab: int = 12, smoothing: float = 1.0) -> Lexicon:
    """A lexicon of 40 words in which every label occurs and the last two tokens do not."""
    rng = np.random.default_rng(seed)
    classes = np.concatenate([[0, 1, 2], rng.integers(0, 3, 37)])
    return build_lexicon(
        rng.integers(0, vocab - 2, 40), classes, LABELS, vocab, smoothing=smoothing
    )


def random_words(
    seed: int, n: int = 30, vocab: int = 12
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of sd 4, gold tokens and gold labels."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, vocab, generator=rng, dtype=torch.float64) * 4
    token = torch.randint(vocab, (n,), generator=rng)
    return logits, token, torch.randint(3, (n,), generator=rng)


def split(
    lexicon: Lexicon, logits: torch.Tensor, token: torch.Tensor, label: torch.Tensor
) -> WordLosses:
    return split_losses(logits, token, label, DeviceLexicon.of(lexicon, logits.shape[1], CPU))


class TestLexicon:
    def test_by_hand(self) -> None:
        """Token 0 begins two nouns and a verb, token 1 a verb; the prior is 1/2, 1/2, 0."""
        lexicon = build_lexicon(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), LABELS, 3)
        np.testing.assert_array_equal(lexicon.prior, [0.5, 0.5, 0])
        np.testing.assert_allclose(
            lexicon.probability,
            [[2.5 / 4, 1.5 / 4, 0], [0.5 / 2, 1.5 / 2, 0], [0.5, 0.5, 0]],
            rtol=1e-15,
        )
        assert lexicon.seen.tolist() == [True, True, False]
        assert (lexicon.n_words, lexicon.smoothing, lexicon.labels) == (4, 1.0, LABELS)
        assert repr(lexicon) == "Lexicon of 3 labels from 4 words; 2 of 3 tokens begin a word"

    def test_smoothing_by_hand(self) -> None:
        lexicon = build_lexicon(np.array([0, 0, 1]), np.array([0, 0, 1]), LABELS, 2, smoothing=0.3)
        assert lexicon.probability[0, 0] == pytest.approx((2 + 0.3 * 2 / 3) / 2.3)

    @given(st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 100.0]))
    @settings(max_examples=50, deadline=None)
    def test_every_token_has_a_distribution_and_an_unseen_one_the_prior(self, seed, b) -> None:
        lexicon = random_lexicon(seed, smoothing=b)
        np.testing.assert_allclose(lexicon.probability.sum(1), 1, rtol=1e-12)
        np.testing.assert_allclose(
            lexicon.probability[~lexicon.seen],
            np.tile(lexicon.prior, (int((~lexicon.seen).sum()), 1)),
            rtol=1e-12,
        )
        assert not lexicon.seen[-2:].any()

    def test_entropy_is_scipys_and_a_label_without_words_adds_nothing(self) -> None:
        lexicon = build_lexicon(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 1]), LABELS, 2)
        assert lexicon.entropy == pytest.approx(stats.entropy([0.75, 0.25]))


class TestErrors:
    def test_no_words(self) -> None:
        nothing = np.zeros(0, np.int64)
        with pytest.raises(
            GrammarLensError, match="no aligned words to build a lexicon from: use a"
        ):
            build_lexicon(nothing, nothing, LABELS, 5)

    @pytest.mark.parametrize("token", [-1, 5])
    def test_a_token_outside_the_vocabulary_is_named(self, token: int) -> None:
        message = rf"token {token} is outside the model's vocabulary of 5: .*another model's"
        with pytest.raises(GrammarLensError, match=message):
            build_lexicon(np.array([0, token, 4]), np.array([0, 1, 2]), LABELS, 5)

    @pytest.mark.parametrize("smoothing", [0.0, -1.0])
    def test_smoothing_must_be_positive(self, smoothing: float) -> None:
        with pytest.raises(GrammarLensError, match=f"smoothing is {smoothing}"):
            build_lexicon(np.array([0]), np.array([0]), LABELS, 5, smoothing=smoothing)

    def test_a_model_with_a_smaller_vocabulary(self) -> None:
        message = "the lexicon knows 12 tokens and the model predicts 11: it was made with another"
        with pytest.raises(GrammarLensError, match=message):
            DeviceLexicon.of(random_lexicon(0), 11, CPU)


class TestSplit:
    def test_by_hand(self) -> None:
        """p = 1/2, 1/4, 1/4 over the three tokens of the hand-made lexicon; the gold is token 0."""
        lexicon = build_lexicon(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), LABELS, 3)
        logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
        got = split(lexicon, logits, torch.tensor([0]), torch.tensor([0]))
        noun = 0.5 * 2.5 / 4 + 0.25 * 0.5 / 2 + 0.25 * 0.5
        # the logits are float32
        assert got.nll.item() == pytest.approx(np.log(2), rel=1e-6)
        assert got.tag_loss.item() == pytest.approx(-np.log(noun), rel=1e-6)
        assert got.lexical_loss.item() == pytest.approx(-np.log(0.5 * 2.5 / 4 / noun), rel=1e-6)
        assert got.tag_probability[0].tolist() == pytest.approx([noun, 1 - noun, 0], rel=1e-6)
        assert got.seen_mass.item() == pytest.approx(0.75, rel=1e-6)

    @given(st.integers(0, 10**6))
    @settings(max_examples=50, deadline=None)
    def test_every_part_is_its_definition(self, seed) -> None:
        """Each part from its own formula, by log_softmax and a sum in float64: not from the others.

        So the identity NLL = L_tag + L_lex + log lambda is found here, not assumed.
        """
        lexicon = random_lexicon(seed)
        logits, token, label = random_words(seed)
        got = split(lexicon, logits.clone(), token, label)
        rows = torch.arange(len(token))
        log_p = torch.log_softmax(logits, 1)[rows, token]
        table = torch.from_numpy(lexicon.probability)
        p_tag = (torch.softmax(logits, 1)[:, :, None] * table[None]).sum(1)
        share = table[token, label]
        lexical = -(log_p.exp() * share / p_tag[rows, label]).log()
        exactly: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}
        torch.testing.assert_close(got.nll, -log_p, **exactly)
        torch.testing.assert_close(got.tag_probability, p_tag, **exactly)
        torch.testing.assert_close(got.tag_loss, -p_tag[rows, label].log(), **exactly)
        torch.testing.assert_close(got.lexical_loss, lexical, **exactly)
        torch.testing.assert_close(
            got.nll, got.tag_loss + got.lexical_loss + share.log(), **exactly
        )
        torch.testing.assert_close(
            got.tag_probability.sum(1), torch.ones(len(token), dtype=torch.float64), **exactly
        )

    def test_under_any_change_the_losses_change_by_the_same(self) -> None:
        """dNLL = dL_tag + dL_lex, because log lambda does not depend on the model."""
        lexicon = random_lexicon(1)
        logits, token, label = random_words(1)
        other, *_ = random_words(2)
        before = split(lexicon, logits, token, label)
        after = split(lexicon, other, token, label)
        change = {name: vars(after)[name] - vars(before)[name] for name in vars(before)}
        assert change["nll"].abs().min() > 0
        torch.testing.assert_close(
            change["nll"], change["tag_loss"] + change["lexical_loss"], rtol=0, atol=1e-12
        )

    def test_a_constant_added_to_the_logits_changes_nothing(self) -> None:
        lexicon = random_lexicon(3)
        logits, token, label = random_words(3)
        plain = split(lexicon, logits.clone(), token, label)
        moved = split(lexicon, logits + 50, token, label)
        for name, values in vars(plain).items():
            torch.testing.assert_close(vars(moved)[name], values, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_logits_are_left_as_they_were(self, dtype: torch.dtype) -> None:
        logits, token, label = random_words(4)
        logits = logits.to(dtype)
        before = logits.clone()
        split(random_lexicon(4), logits, token, label)
        assert torch.equal(logits, before)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_weights_are_float32_and_sums_float64(self, dtype: torch.dtype) -> None:
        """A weight exp(-d) is off by the rounding of d and of the exponential; sums add nothing."""
        logits, token, label = random_words(5)
        short = logits.to(dtype)
        got = split(random_lexicon(5), short, token, label)
        expected = split(random_lexicon(5), short.double(), token, label)
        distance = (short.amax(1) - short.amin(1)).max().item()
        off = torch.finfo(torch.float32).eps * (distance + 2)
        for name, values in vars(expected).items():
            assert vars(got)[name].dtype == torch.float64
            torch.testing.assert_close(vars(got)[name], values, rtol=off, atol=off)

    def test_many_small_weights_are_not_lost(self) -> None:
        """A million tokens, each e^-20 as likely as the first: added in float32 they would vanish."""
        vocab = 2**20
        logits = torch.full((1, vocab), -20.0)
        logits[0, 0] = 0.0
        got = split(random_lexicon(6, vocab=vocab), logits, torch.tensor([0]), torch.tensor([0]))
        assert got.nll.item() == pytest.approx(np.log1p((vocab - 1) * np.exp(-20)), rel=1e-6)

    def test_words_do_not_depend_on_their_neighbours(self) -> None:
        """However many are split together: rows of a large vocabulary are taken a few at a time."""
        vocab = 2**18
        logits = torch.randn(7, vocab, generator=torch.Generator().manual_seed(6))
        token, label = torch.arange(7) * 1000, torch.arange(7) % 3
        lexicon = random_lexicon(6, vocab=vocab)
        together = split(lexicon, logits, token, label)
        for i in range(7):
            alone = split(lexicon, logits[i : i + 1], token[i : i + 1], label[i : i + 1])
            for name, values in vars(alone).items():
                # sums over 2^18 tokens may be taken in another order
                torch.testing.assert_close(vars(together)[name][[i]], values, rtol=1e-10, atol=0)

    def test_no_words_no_losses(self) -> None:
        logits, token, label = random_words(7)
        got = split(random_lexicon(7), logits[:0], token[:0], label[:0])
        assert got.nll.shape == got.seen_mass.shape == (0,)
        assert got.tag_probability.shape == (0, 3)

    def test_an_unseen_gold_token_has_the_lexical_share_of_the_prior(self) -> None:
        lexicon = random_lexicon(8)
        logits, _, label = random_words(8)
        token = torch.full((30,), 11)
        got = split(lexicon, logits, token, label)
        rest = got.nll - got.tag_loss - got.lexical_loss
        expected = torch.from_numpy(lexicon.prior)[label].log()
        torch.testing.assert_close(rest, expected, rtol=1e-10, atol=1e-12)

    def test_a_padded_vocabulary_has_the_prior_and_is_unseen(self) -> None:
        """Models round their vocabulary up; mass on the padding says nothing of the tag."""
        lexicon = random_lexicon(9)
        logits = torch.full((1, 16), -1e4)
        logits[0, 14] = 0.0
        got = split(lexicon, logits, torch.tensor([3]), torch.tensor([1]))
        np.testing.assert_allclose(got.tag_probability[0], lexicon.prior, rtol=1e-12)
        assert got.seen_mass.item() == 0
        tables = DeviceLexicon.of(lexicon, 16, CPU)
        assert tables.probability.shape == (16, 3)
        assert tables.known.tolist() == np.flatnonzero(lexicon.seen).tolist()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_extreme_logits_stay_finite(self, dtype: torch.dtype) -> None:
        """The gold token is 20,000 nats below the top; smoothing keeps P(tag) above 0."""
        lexicon = random_lexicon(10)
        logits = torch.full((3, 12), -1e4, dtype=dtype)
        logits[:, 0] = 1e4
        logits[2, 5] = -torch.inf
        got = split(lexicon, logits, torch.tensor([5, 0, 1]), torch.tensor([0, 1, 2]))
        for values in vars(got).values():
            assert torch.isfinite(values).all()
        distance = (logits[0, 0].double() - logits[0, 5].double()).item()
        assert got.nll.tolist() == pytest.approx([distance, 0, distance])
        np.testing.assert_allclose(got.tag_probability, lexicon.probability[[0, 0, 0]], rtol=1e-12)

    def test_a_label_the_lexicon_never_saw_has_no_finite_loss(self) -> None:
        """The reason why words of such labels are left out of a study."""
        lexicon = build_lexicon(np.array([0, 1]), np.array([0, 1]), LABELS, 3)
        got = split(lexicon, torch.zeros(1, 3), torch.tensor([0]), torch.tensor([2]))
        assert got.tag_probability[0, 2] == 0
        assert got.tag_loss.item() == np.inf
