"""Memory of a run from sizes alone: arithmetic that needs no model and no tensor.

The statistics are counted exactly, tensor by tensor. What a forward pass holds at once is counted from
the layers of a Llama: residual stream, attention, gated MLP, and what readers keep until a batch ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from grammar_lens.defaults import HEAD_BLOCK, HEAD_CHUNK

USABLE = 0.95
"""The share of the free memory that a run can count on; fragments and libraries take the rest."""


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a model; `itemsize` is that of its activations in bytes.

    `in_steps` says whether attention makes its weights [head time time], as outside the fast path.
    """

    name: str
    n_parameters: int
    parameter_bytes: int
    n_layers: int
    d_model: int
    d_mlp: int
    n_heads: int
    n_key_heads: int
    d_head: int
    vocabulary: int
    itemsize: int
    in_steps: bool = False


@dataclass(frozen=True)
class BatchSize:
    """The largest batch of a pass: its rectangle of tokens, and the words that are read in it."""

    rows: int
    width: int
    words: int

    @property
    def tokens(self) -> int:
        return self.rows * self.width

    def within(self, budget: int) -> "BatchSize":
        """The batch that a token budget leaves of it; one row always remains."""
        rows = max(1, min(self.rows, budget // self.width))
        return replace(self, rows=rows, words=-(-self.words * rows // self.rows))


@dataclass(frozen=True)
class ReadingSize:
    """Sizes of what is collected of one site at one position.

    `n_words` counts all words of the corpus, for the tables of exchanged labels and contrasts.
    """

    n_layers: int
    n_units: int
    n_labels: int
    n_words: int
    replicates: int = 0
    controls: bool = False
    sampled: int = 0

    @property
    def n_classes(self) -> int:
        """Labels times halves, and with an exchange times whether a word takes part."""
        return self.n_labels * (4 if self.replicates else 2)

    @property
    def moments(self) -> int:
        """Count; mean, squared deviations and firing count of every class; sums of absolute values."""
        a_layer = 8 * (self.n_classes + (3 * self.n_classes + 1) * self.n_units)
        return self.n_layers * a_layer

    @property
    def exchanged(self) -> int:
        """Sums of every label in every replicate."""
        return self._sums(self.replicates * self.n_labels)

    @property
    def contrasts(self) -> int:
        """Sums of two contrasts of every label."""
        return self._sums(2 * self.n_labels) if self.controls else 0

    @property
    def sample(self) -> int:
        """Activations of the words kept whole, on the host, and which have been read."""
        return self.sampled * (4 * self.n_layers * self.n_units + 1)

    @property
    def tables(self) -> int:
        """Data on every word before the pass: its exchanged labels, and its weights."""
        weights = 16 * self.n_labels if self.controls else 0
        return self.n_words * (2 * self.replicates + weights)

    def _sums(self, rows: int) -> int:
        """float32 sums and their centre, float64 totals, and a flag that they have begun."""
        return self.n_layers * (4 * (rows + 1) * self.n_units + 8 * rows + 1) if rows else 0

    @property
    def on_device(self) -> int:
        return self.moments + self.exchanged + self.contrasts + self.tables

    def held(self, batch: BatchSize, fused: bool) -> int:
        """Data held in all layers until a batch ends, and the buffers that batches share."""
        classes = min(self.n_classes, batch.words)
        of_class, of_layer = (24, 8) if fused else (16, 4)
        waiting = self.n_layers * self.n_units * (of_class * classes + of_layer)
        return waiting + (0 if fused else 8 * batch.words * self.n_units)

    def reading(self, batch: BatchSize) -> int:
        """Temporary data while a layer is read: words' activations and a batch's sums."""
        rows = max(self.replicates, 2 * self.controls) * self.n_labels
        return (
            8 * batch.words * self.n_units
            + 4 * rows * self.n_units
            + 16 * batch.words * self.replicates
        )

    def afterwards(self, n_nulls: int) -> tuple[int, int]:
        """On the host when the pass is over: what stays of this reading, and what its nulls take.

        The class means of one replicate stand there at a time, beside scores of all units.
        """
        number = 8 * self.n_layers * self.n_units
        stored = 3 * (self.n_classes + 3 * self.n_labels) + 2 * self.n_labels * self.controls
        nulls = (3 + 2.5) * self.n_labels * n_nulls if self.replicates else 0
        return int(number * (stored + nulls)), number * 13 * self.n_labels


@dataclass(frozen=True)
class LayerSize:
    """Sizes of the probes on whole layers, at so many positions, the embedding counted as a layer.

    `n_words` are those that are fitted on; as many are tested on. `twin` says whether an untrained
    twin is read too: on a CPU beside the model, on a GPU in its place.
    """

    n_positions: int
    n_layers: int
    n_units: int
    n_labels: int
    n_words: int
    twin: bool

    @property
    def sums(self) -> int:
        """Squares and products within classes; means and counts of labels and of control labels."""
        means = 2 * self.n_labels * 8 * (self.n_units + 1)
        return self.n_positions * self.n_layers * (4 * self.n_units**2 + means)

    @property
    def fit(self) -> int:
        """A layer's sums in float64, its control task's, correlations, and a factor of these."""
        return 6 * 8 * self.n_units**2

    @property
    def posteriors(self) -> int:
        """On the host: of every word, layer and class, also of the control task."""
        return self.n_positions * self.n_words * (self.n_layers * 2 * self.n_labels * 4 + 1)


@dataclass(frozen=True)
class Sizes:
    """Everything that decides how much memory a run needs."""

    model: ModelSize
    readings: Mapping[str, ReadingSize]
    """Of every site and position, named "position site"."""
    batch: BatchSize
    token_budget: int
    stack: int = 8
    """Lesions in one forward pass: a battery's batches are this part of the budget."""
    fused: bool = False
    """Whether the moments are made by the GPU's kernels."""
    on_gpu: bool = False
    n_nulls: int = 1
    attribution: bool = True
    attributed_replicates: int = 0
    layers: LayerSize | None = None
    lesions: bool = True
    workers: int = 1
    """Batches of lesions read side by side."""
    n_devices: int = 1
    """Devices that one copy of the model is spread over."""


@dataclass(frozen=True)
class Needs:
    """Bytes that one pass needs on its device beside the parameters.

    `held` waits until a batch ends; `head` is for the logits; `twin` are the parameters of a second
    model beside the first.
    """

    statistics: int
    activations: int
    held: int
    head: int = 0
    twin: int = 0

    @property
    def total(self) -> int:
        return self.statistics + self.activations + self.held + self.head + self.twin


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a run by part; `passes` by name, each with what it needs at once.

    `host_after` is what the host needs when the collecting pass is over, for moments and nulls.
    `peak` is on the device that has most; without a GPU device and host are one.
    """

    parameters: int
    statistics: Mapping[str, int]
    passes: Mapping[str, Needs]
    host_after: int
    peak: int
    host_peak: int

    def fits(self, free: int | None) -> bool | None:
        """Whether the peak fits the free memory; None where that is not known."""
        return None if free is None else self.peak <= USABLE * free


def memory_plan(sizes: Sizes) -> MemoryPlan:
    """Memory that a run of these sizes needs."""
    readings = list(sizes.readings.values())
    statistics = {
        "moments": sum(r.moments for r in readings),
        "exchanged": sum(r.exchanged for r in readings),
        "contrasts": sum(r.contrasts for r in readings),
        "sample": sum(r.sample for r in readings),
        "tables": sum(r.tables for r in readings),
    }
    passes = {"collect": collecting(sizes)}
    if sizes.attribution:
        passes["attribution"] = attributing(sizes)
    if sizes.layers is not None:
        passes["layers"] = probing_layers(sizes, sizes.layers)
    if sizes.lesions:
        passes["lesion"] = lesioning(sizes)
    stored, scratch = zip(*(r.afterwards(sizes.n_nulls) for r in readings), strict=True)
    host_after = sum(stored) + max(scratch) + statistics["sample"]
    parameters = sizes.model.parameter_bytes
    n = sizes.n_devices
    peak = max(
        -(-(parameters + p.twin + p.statistics + p.held) // n) + p.activations + p.head
        for p in passes.values()
    )
    if not sizes.on_gpu:
        # the statistics are still there while the nulls are made of them
        collected = passes["collect"].statistics + passes["collect"].held
        peak = max(peak + statistics["sample"], parameters + collected + host_after)
    host = host_after + statistics["tables"]
    if sizes.layers is not None:
        host = max(host, sizes.layers.posteriors + sizes.layers.twin * parameters)
    return MemoryPlan(
        parameters=parameters,
        statistics=statistics,
        passes=passes,
        host_after=host_after,
        peak=peak,
        host_peak=host if sizes.on_gpu else peak,
    )


def collecting(sizes: Sizes) -> Needs:
    """The pass over the training words."""
    readings, batch = sizes.readings.values(), sizes.batch
    made = max(r.reading(batch) for r in readings)
    m, tokens = sizes.model, batch.tokens * sizes.model.itemsize
    # where a layer is read: residual stream, the MLP's input, its gate and its product
    read = tokens * (2 * m.d_model + 2 * m.d_mlp) + made
    return Needs(
        statistics=sum(r.on_device for r in readings),
        activations=max(read, forward(m, batch)),
        held=sum(r.held(batch, sizes.fused) for r in readings),
    )


def attributing(sizes: Sizes) -> Needs:
    """The pass with a gradient back to every neuron ("own"), at the token before each word."""
    m, batch = sizes.model, sizes.batch
    some = next(iter(sizes.readings.values()))
    reading = replace(
        some,
        n_units=m.d_mlp,
        replicates=sizes.attributed_replicates,
        controls=False,
        sampled=0,
    )
    attention = 2 * (m.n_heads + m.n_key_heads) * m.d_head
    # for the way back: both norms' float32, attention's parts, the MLP's three hidden vectors
    a_layer = batch.tokens * (8 * m.d_model + m.itemsize * (attention + 3 * m.d_mlp))
    gaps = 4 * batch.words * m.d_mlp
    graph = m.n_layers * (a_layer + gaps)
    shares = 8 * some.n_labels * m.vocabulary
    back = 3 * batch.tokens * m.itemsize * m.d_mlp + 2 * gaps + reading.reading(batch)
    return Needs(
        statistics=reading.on_device,
        activations=graph + max(back, forward(m, batch)),
        held=reading.held(batch, sizes.fused),
        head=shares + _block(sizes) * 2 * m.itemsize + _chunk(sizes) * 3 * 8,
    )


def probing_layers(sizes: Sizes, layers: LayerSize) -> Needs:
    """The passes of probes on whole layers, and the fits between them."""
    m, batch = sizes.model, sizes.batch
    rows = 4 * batch.words * (3 * m.d_model + 2 * layers.n_labels)
    read = batch.tokens * m.itemsize * 2 * m.d_model + rows
    table = 8 * (layers.n_labels + 1) * m.vocabulary
    return Needs(
        statistics=layers.sums + (0 if sizes.on_gpu else layers.posteriors),
        activations=max(read, forward(m, batch), layers.fit),
        held=0,
        head=table + _block(sizes) * m.itemsize + _chunk(sizes) * 2 * 8,
        twin=0 if sizes.on_gpu or not layers.twin else m.parameter_bytes,
    )


def _block(sizes: Sizes) -> int:
    """Logits that one product with the head makes: those of a batch's words, or so many at a time."""
    whole = sizes.batch.words * sizes.model.vocabulary
    return max(min(HEAD_BLOCK[sizes.on_gpu], whole), sizes.model.vocabulary)


def _chunk(sizes: Sizes) -> int:
    """Logits that are held in float64."""
    return max(HEAD_CHUNK[sizes.on_gpu], sizes.model.vocabulary)


def lesioning(sizes: Sizes) -> Needs:
    """A battery of lesions: of every worker the intact activations, and a budget full of lesioned rows."""
    m, budget = sizes.model, sizes.token_budget
    some = next(iter(sizes.readings.values()))
    width = min(sizes.batch.width, budget)
    full = BatchSize(max(1, budget // width), width, 0)
    intact = max(budget // sizes.stack, width) * m.itemsize
    stored = intact * ((m.n_layers + 1) * m.d_model + m.n_layers * m.d_mlp)
    words = min(budget, -(-budget * sizes.batch.words // sizes.batch.tokens))
    table = 8 * (some.n_labels + 1) * m.vocabulary
    return Needs(
        statistics=0,
        activations=sizes.workers * (stored + forward(m, full)),
        held=0,
        head=sizes.workers * (table + words * m.vocabulary * m.itemsize + 2 * 8 * _chunk(sizes)),
    )


def forward(m: ModelSize, batch: BatchSize) -> int:
    """The most that a layer holds at once, without its readers: in its MLP, its attention or a norm."""
    tokens = batch.tokens
    heads, keys = m.n_heads * m.d_head, m.n_key_heads * m.d_head
    mlp = m.itemsize * (2 * m.d_model + 4 * m.d_mlp)
    # residual, input, output; queries, keys and values as made, turned by their place, and repeated
    attention = m.itemsize * (3 * m.d_model + 6 * heads + 4 * keys)
    norm = 2 * m.itemsize * m.d_model + 3 * 4 * m.d_model
    weights = batch.rows * m.n_heads * batch.width**2 * (2 * m.itemsize + 4) if m.in_steps else 0
    return max(tokens * mlp, tokens * attention + weights, tokens * norm)


def remedies(sizes: Sizes, dtype: str, free: int) -> list[tuple[str, int]]:
    """Options that would reduce memory, each with the peak it leads to; those that fit come first.

    Only what takes a tenth off or more. What fits is mildest first, what does not smallest first.
    """
    tried: list[tuple[str, Sizes]] = []
    budget = sizes.token_budget
    for part in (2, 4, 8):
        smaller = max(1, budget // part)
        changed = replace(sizes, token_budget=smaller, batch=sizes.batch.within(smaller))
        tried.append((f"--token-budget {smaller}", changed))
    if any(r.replicates for r in sizes.readings.values()):
        for n in (20, 0):
            tried.append((f"--replicates {n}", _with_replicates(sizes, n)))
    at_next = {name: r for name, r in sizes.readings.items() if name.startswith("next ")}
    if at_next and len(at_next) < len(sizes.readings):
        tried.append(("--position next", replace(sizes, readings=at_next)))
    if sizes.layers is not None:
        tried.append(("--layer-words 0", replace(sizes, layers=None)))
        if sizes.layers.twin:
            alone = replace(sizes.layers, twin=False)
            tried.append(("--no-untrained", replace(sizes, layers=alone)))
    if dtype == "float32":
        m = sizes.model
        half = replace(m, parameter_bytes=m.parameter_bytes // 2, itemsize=2)
        tried.append(("--dtype bfloat16", replace(sizes, model=half)))
    if sizes.on_gpu:
        n = sizes.n_devices * 2
        tried.append((f"--device-map auto on {n} GPUs", replace(sizes, n_devices=n)))
    now = memory_plan(sizes).peak
    peaks = [(option, memory_plan(changed).peak) for option, changed in tried]
    helpful = [(option, peak) for option, peak in peaks if peak <= 0.9 * now]
    fit = [x for x in helpful if x[1] <= USABLE * free]
    return fit + sorted((x for x in helpful if x not in fit), key=lambda x: x[1])


def _with_replicates(sizes: Sizes, n: int) -> Sizes:
    readings = {
        name: replace(r, replicates=min(r.replicates, n)) for name, r in sizes.readings.items()
    }
    return replace(
        sizes, readings=readings, attributed_replicates=min(sizes.attributed_replicates, n)
    )


def n_lesions(
    n_labels: int,
    *,
    shams: int,
    n_others: int,
    other_shams: int,
    damage_matched: int,
    sufficiency: bool,
) -> int:
    """Number of lesions of a study; damage-matched shams count once, though they grow in steps."""
    sets = n_labels * (1 + shams + n_others * (1 + other_shams) + damage_matched)
    return sets + (1 + n_labels * (1 + other_shams) if sufficiency else 0)


def seconds_in_all(timed: Sequence[tuple[int, float]], shapes: Sequence[tuple[int, int]]) -> float:
    """The time of batches (width, tokens), from the widths and seconds per token of some of them.

    Between the timed widths seconds per token are interpolated, beyond them they stay.
    """
    known = sorted(dict(timed).items())
    return sum(tokens * _interpolated(known, width) for width, tokens in shapes)


def _interpolated(known: Sequence[tuple[int, float]], width: int) -> float:
    below = [x for x in known if x[0] <= width]
    above = [x for x in known if x[0] >= width]
    if not below or not above:
        return (below[-1:] or above[:1])[0][1]
    (w0, s0), (w1, s1) = below[-1], above[0]
    return s0 if w0 == w1 else s0 + (s1 - s0) * (width - w0) / (w1 - w0)
