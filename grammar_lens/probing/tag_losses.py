"""Losses of words' labels under the model's own prediction, from a pass that others share."""

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from grammar_lens.corpus.corpus import Corpus
from grammar_lens.corpus.lexicon import DeviceLexicon, Lexicon, split_losses
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, device_of
from grammar_lens.model.forward import check_head, head_blocks
from grammar_lens.model.weights import unembedding
from grammar_lens.passes.readers import RowReader, Seen


class TagLossReader(RowReader):
    """Keeps -log P(label | context) of some words, in nats: [word].

    Its tap is at the head's input, its codes are row numbers; `token` and `label` are those of each row.
    """

    def __init__(
        self,
        model: Model,
        token: Int[np.ndarray, " row"],
        label: Int[np.ndarray, " row"],
        lexicon: Lexicon,
    ) -> None:
        super().__init__((len(token),))
        head = unembedding(model)
        self._model = model
        self._token, self._label = (torch.from_numpy(x).to(head.device) for x in (token, label))
        self._lexicon = DeviceLexicon.of(lexicon, len(head), head.device)

    def add(self, layer: int, seen: Seen, words: Int[Tensor, " word"]) -> Bool[Tensor, ""]:
        token, label = (x[words.to(x.device)] for x in (self._token, self._label))
        losses = torch.cat(
            [
                split_losses(logits, token[part], label[part], self._lexicon).tag_loss
                for part, logits in head_blocks(self._model, seen.values())
            ]
        )
        self._rows = words.cpu().numpy()
        self.values[self._rows] = losses.float().cpu().numpy()
        return torch.isfinite(losses).all()


def tag_loss_reader(
    model: Model, corpus: Corpus, word: Int[np.ndarray, " row"], lexicon: Lexicon
) -> TagLossReader | None:
    """The reader of some words of a corpus, a row each in this order.

    None for a model whose logits are not its head's product alone (see `check_head`).
    """
    row = int(corpus.alignment.row[word[0]])
    ids = torch.from_numpy(corpus.alignment.token_ids[row])[None].to(device_of(model))
    try:
        check_head(model, ids)
    except GrammarLensError:
        return None
    return TagLossReader(model, corpus.alignment.first_token[word], corpus.classes[word], lexicon)
