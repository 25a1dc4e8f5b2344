"""Stage A on cached features, and the published loop that runs both frozen models again at every step."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from common import arguments, clocked, figure, report, training_text
from torch import Tensor
from torch.nn import functional as F

from llink import plugins
from llink.features.cache import FeatureCache
from llink.features.teacher import TeacherEncoder
from llink.interfaces import Decoder, Encoder
from llink.recipe import StageA, Teacher, load_recipe, recipe_files
from llink.store.models import load_decoder, load_encoder
from llink.store.registry import load_registry
from llink.training.checkpoints import Checkpoint
from llink.training.loop import part_seed, warmup_cosine
from llink.training.stage_a import AlignmentData, epoch_batches, train_stage_a

SAME = 0.01
"""How far the two losses of a batch may lie apart, as a share: cached vectors are bfloat16."""


def plain_loop(
    encoder: Encoder,
    decoder: Decoder,
    projector: Any,
    pairs: Sequence[tuple[str, str]],
    config: StageA,
    *,
    seed: int,
    steps: int,
    micro: int,
    queue: Tensor,
) -> tuple[list[float], list[float]]:
    """The published procedure, as it stands: at each step encoder and decoder read the batch again.

    Args:
        pairs: (foreign, English).
        micro: rows that a frozen model reads at once; 8 in the paper, 16 of which make an update.
        queue: ``[Q, D]`` unit vectors to begin with; later ones push the first out.

    Returns:
        Each step's loss and seconds.
    """
    device = queue.device
    reserved = decoder.embedding_matrix().detach().mean(0)
    base: Any = decoder.model.base_model
    projector.train()
    optimizer = torch.optim.AdamW(projector.parameters(), config.lr, (0.9, 0.98), weight_decay=config.weight_decay)
    weight = {name: config.losses.get(name, 0.0) for name in ("info_nce", "direction", "log_norm")}
    batches = epoch_batches(len(pairs), config.batch, seed)
    losses, seconds = [], []
    for step in range(steps):
        began = time.perf_counter()
        rows = next(batches).tolist()
        foreign, teachers = [], []
        with torch.inference_mode():
            for start in range(0, len(rows), micro):
                part = [pairs[i] for i in rows[start : start + micro]]
                foreign.append(encoder.encode([text for text, _ in part]).pooled.float())
                # The paper's teacher: the last layer at a reserved token behind the English text.
                ids = [torch.tensor(decoder.tokenize(english)[:256], device=device) for _, english in part]
                texts = [torch.cat([decoder.embed(row), reserved[None]]) for row in ids]
                padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
                states = base(inputs_embeds=padded, use_cache=False).last_hidden_state
                ends = torch.tensor([len(text) - 1 for text in texts], device=device)
                teachers.append(states[torch.arange(len(texts), device=device), ends].float())
        inputs, teacher = torch.cat(foreign).clone(), torch.cat(teachers).clone()
        progress = step / max(steps - 1, 1)
        temperature = config.temperature[0] + (config.temperature[1] - config.temperature[0]) * progress
        for group in optimizer.param_groups:
            group["lr"] = config.min_lr + (config.lr - config.min_lr) * warmup_cosine(step, steps, config.warmup)
        torch.manual_seed(part_seed(seed, step, 0))  # the same dropout as in llink.training.loop
        student = projector(inputs)
        s, t = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
        logits, labels = s @ t.T / temperature, torch.arange(len(s), device=device)
        forward = logits
        if len(queue):
            hard = (s @ queue.T).topk(min(config.hardest, len(queue)), dim=1).values / temperature
            forward = torch.cat([logits, hard], dim=1)
        info_nce = 0.5 * (F.cross_entropy(forward, labels) + F.cross_entropy(logits.T, labels))
        direction = (s - t).square().sum(-1).mean()
        log_norm = (student.norm(dim=-1).log() - teacher.norm(dim=-1).log()).square().mean()
        loss = weight["info_nce"] * info_nce + weight["direction"] * direction + weight["log_norm"] * log_norm
        loss.backward()
        torch.nn.utils.clip_grad_norm_(projector.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        queue = torch.cat([queue, t])[-config.queue :]
        losses.append(loss.item())  # waits for the device
        seconds.append(time.perf_counter() - began)
    return losses, seconds


def cached_steps(
    projector: Any, data: AlignmentData, config: StageA, steps: int, seed: int, queue: Tensor, accelerator: Accelerator
) -> tuple[list[dict[str, Any]], list[float]]:
    """LLINK's own stage A for so many steps, the queue as given to begin with: its log, and each step's seconds."""
    per_epoch = math.ceil(len(data.inputs) / config.batch)
    # The queue comes in as a checkpoint before the first step brings it; no row is of the group -1.
    stage = torch.nn.ModuleDict({"projector": projector})
    begun = {
        "queue": queue,
        "queue_groups": torch.full((len(queue),), -1),
        "seconds": torch.zeros(1, dtype=torch.float64),
    }
    optimizer = torch.optim.AdamW(projector.parameters())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "start.safetensors"
        Checkpoint({"a": stage}, {"a": optimizer}, begun).save(checkpoint, 0)
        marks = [time.perf_counter()]
        train_stage_a(
            projector, data, config.model_copy(update={"epochs": steps / per_epoch}), seed=seed,
            accelerator=accelerator, checkpoint=checkpoint, checkpoint_every=steps + 1, log=rows.append,
            seen=lambda _: marks.append(time.perf_counter()),
        )  # fmt: skip
    return rows, [after - before for before, after in pairwise(marks)]


def main() -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, repeats=2)
    parser.add_argument("--data", type=Path, help="folder with km/train.jsonl.gz  [default: that of llink train]")
    parser.add_argument("--sample", type=int, default=256, help="pairs that are encoded to measure the one-off passes")
    parser.add_argument("--epochs", type=float, default=25, help="of the full recipe")
    parser.add_argument("--micro", type=int, default=8, help="rows that a frozen model of the plain loop reads at once")
    parser.add_argument("--steps", type=int, default=20, help="cached steps that are timed with the queue full")
    parser.add_argument("--queue", type=int, help="teacher vectors in the queue  [default: the recipe's]")
    options = parser.parse_args()
    recipe = load_recipe(recipe_files("llink_khmer")["paper"])
    teacher, seed = Teacher.model_validate(recipe.teacher.model_dump()), recipe.seed
    changes = {} if options.queue is None else {"queue": options.queue}
    pairs, note = training_text(options.data, recipe.data)
    batch = min(recipe.stage_a.batch, max(2, len(pairs) // 2))
    config = recipe.stage_a.model_copy(update={"batch": batch, "accumulation": 1, **changes})
    # One pair an English text, so that no row is another's negative and the loss is the plain one.
    distinct = list({english: (foreign, english) for foreign, english in pairs}.values())
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed)).tolist()
    sample = [distinct[i] for i in order[: options.sample // batch * batch or batch]]
    plain_steps = min(options.repeats, len(sample) // batch)

    default = load_registry().default
    accelerator = Accelerator()
    device = str(accelerator.device)
    encoder, decoder = load_encoder(default.encoder, device=device), load_decoder(default.decoder, device=device)
    foreign, english = [f for f, _ in sample], [e for _, e in sample]
    encoder.encode(foreign[:2])  # the first pass of a model is always slow
    states = TeacherEncoder(decoder, teacher)
    states.encode(english[:2])
    with tempfile.TemporaryDirectory() as folder:
        features, teachers = FeatureCache(Path(folder), encoder), FeatureCache(Path(folder), states)
        encoding = clocked(lambda: features.ensure(foreign)) / len(set(foreign))
        teaching = clocked(lambda: teachers.ensure(english)) / len(sample)
        inputs, targets = features.pooled(foreign), teachers.pooled(english)

    def projector() -> Any:
        torch.manual_seed(seed)
        made = plugins.projector(recipe.projector.kind).make(
            encoder_size=encoder.hidden_size, decoder_size=decoder.hidden_size,
            hidden=recipe.projector.hidden, dropout=recipe.projector.dropout,
        )  # fmt: skip
        made.fit_input(inputs)
        return made.to(device)

    data = AlignmentData(inputs, targets, torch.arange(len(sample)))
    # In the long run the queue is full.
    queue = F.normalize(torch.randn(config.queue, decoder.hidden_size, device=device), dim=-1)
    # The same batches from the same start: the same losses, so the same updates.
    losses, slow = plain_loop(
        encoder, decoder, projector(), sample, config, seed=seed, steps=plain_steps, micro=options.micro, queue=queue
    )
    ours, _ = cached_steps(projector(), data, config, plain_steps, seed, queue, accelerator)
    compared = [(losses[0], ours[0]["loss"]), (losses[-1], ours[-1]["loss"])]
    if max(abs(a - b) / abs(a) for a, b in compared) > SAME:
        raise SystemExit(f"Not the same update: losses {compared}.")
    _, quick = cached_steps(projector(), data, config, options.steps, seed, queue, accelerator)
    step_plain, step_ours = statistics.mean(slow), statistics.median(quick[1:] or quick)

    per_epoch = math.ceil(len(pairs) / batch)
    once = encoding * len({f for f, _ in pairs}) + teaching * len(distinct)
    total_plain, total_ours = (
        options.epochs * per_epoch * step_plain,
        once + options.epochs * per_epoch * step_ours,
    )
    saved = per_epoch * (step_plain - step_ours)
    even = once / saved if saved > 0 else math.inf
    header = ["", "plain loop", "LLINK", "ratio"]
    rows = [
        ["a step, s", f"{step_plain:.2f}", f"{step_ours:.3f}", f"{step_plain / step_ours:.0f}x"],
        ["once, s", "0", f"{once:,.0f}", ""],
        ["an epoch, s", f"{per_epoch * step_plain:,.0f}", f"{per_epoch * step_ours:,.0f}", ""],
        [f"{options.epochs:g} epochs, h", f"{total_plain / 3600:.1f}", f"{total_ours / 3600:.2f}",
         f"**{total_plain / total_ours:.1f}x**"],
        ["loss of the first batch", f"{losses[0]:.4f}", f"{ours[0]['loss']:.4f}", ""],
        [f"loss of batch {plain_steps}, after {plain_steps - 1} updates", f"{losses[-1]:.4f}", f"{ours[-1]['loss']:.4f}", ""],
    ]  # fmt: skip
    notes = [
        f"Teacher, projector, losses, queue and batch of {batch} of the recipe `km/paper`, on the default pair. Measured are "
        f"{plain_steps} steps of the plain loop, its frozen models reading {options.micro} rows at once, {options.steps} "
        f"of stage A, both with the queue full ({config.queue:,}), and both passes over {len(sample)} texts "
        f"({1 / encoding:.0f} foreign and {1 / teaching:.0f} English texts a second). The rest is multiplied: "
        f"{len(pairs):,} pairs, {per_epoch:,} steps an epoch.",
        f"LLINK is ahead from epoch {even:.2f} on." if even < math.inf else "LLINK never gets ahead here.",
        note,
    ]
    fig, axes = figure("Stage A: hours against epochs")
    epochs = [0.0, options.epochs]
    axes.plot(epochs, [0, total_plain / 3600], label="plain loop")
    axes.plot(epochs, [once / 3600, total_ours / 3600], label="LLINK, features cached")
    axes.set(xlabel="epochs", ylabel="hours", xlim=(0, None), ylim=(0, None))
    axes.legend()
    report("stage_a", options.docs, fig, header, rows, notes)


if __name__ == "__main__":
    main()
