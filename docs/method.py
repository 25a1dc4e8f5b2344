"""The method in one sitting: from pairs of sentences to an English answer about a text that the decoder cannot read.

    python docs/method.py gemma3-270m smollm2-135m-instruct pairs.jsonl --layer 12 --text "ខ្ញុំឈឺក្បាល។"

Models are names of the registry or folders, a line of the pairs is {"english": "...", "foreign": "..."}. Thirty pairs are
learnt by heart; other sentences take tens of thousands, and `llink train`, which has a cache, many GPUs, a queue of
negatives, slots by length, tasks, longer texts and exact values. Source: arXiv 2510.27254; docs/design.md says where we differ.

Letters at the end of a name are its shape, so `states_BTH` is [B, T, H]: N pairs, B batch, T encoder tokens, H encoder size,
D decoder size, W inner width, K slots, U distinct tokens of a batch, P prompt tokens, L target tokens, V vocabulary.
"""

import argparse
import json
from itertools import pairwise

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from llink.store import ensure

K, WIDE, WIDTH, DEPTH, HEADS, BATCH = 8, 1024, 256, 2, 4, 8
SYSTEM, INSTRUCTION = "Answer in English.", "Translate to English."


def update(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


@torch.no_grad()
def encode(encoder, tokenizer, text, layer):
    """The frozen encoder's token states [T, H] of a text at one layer, without those of BOS and EOS."""
    options = {"truncation": True, "max_length": 256, "split_special_tokens": True, "return_special_tokens_mask": True}
    ids = tokenizer(text, return_tensors="pt", **options)
    states_1TH = encoder(input_ids=ids["input_ids"], output_hidden_states=True).hidden_states[layer]
    return states_1TH[ids["special_tokens_mask"] == 0]


def info_nce(student_BD, teacher_BD, text_B, temperature):
    """Each student must pick its teacher, and each teacher its student; rows of one English text are no negatives."""
    logits_BB = F.normalize(student_BD, dim=-1) @ F.normalize(teacher_BD, dim=-1).T / temperature
    same_BB = (text_B[:, None] == text_B) & ~torch.eye(len(text_B), dtype=torch.bool)
    logits_BB, own_B = logits_BB.masked_fill(same_BB, -torch.inf), torch.arange(len(text_B))
    return 0.5 * (F.cross_entropy(logits_BB, own_B) + F.cross_entropy(logits_BB.T, own_B))


class Injector(nn.Module):
    """K queries, told the aligned vector, attend to the token states; they come out at the norm of embedding rows."""

    def __init__(self, H, D, norm):
        super().__init__()
        self.query_KW = nn.Parameter(0.5 * torch.randn(K, WIDTH))
        self.position_TW = nn.Parameter(0.2 * torch.randn(256, WIDTH))
        self.sentence, self.read = nn.Linear(D, WIDTH), nn.Sequential(nn.Linear(H, WIDTH), nn.LayerNorm(WIDTH))
        block = nn.TransformerDecoderLayer(WIDTH, HEADS, 2 * WIDTH, 0.0, F.gelu, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerDecoder(block, DEPTH)
        self.out = nn.Sequential(nn.Linear(WIDTH, D), nn.LayerNorm(D))
        nn.init.constant_(self.out[1].weight, norm / D**0.5)

    def forward(self, aligned_BD, states):
        states_BTH = nn.utils.rnn.pad_sequence(states, batch_first=True)
        padding_BT = torch.arange(states_BTH.shape[1]) >= torch.tensor([[len(s_TH)] for s_TH in states])
        memory_BTW = self.read(states_BTH) + self.position_TW[: states_BTH.shape[1]]
        x_BKW = self.query_KW + self.sentence(F.normalize(aligned_BD, dim=-1) * aligned_BD.shape[-1] ** 0.5)[:, None]
        return self.out(self.blocks(x_BKW, memory_BTW, memory_key_padding_mask=padding_BT))  # [B, K, D]


def imitation(slots_BKD, rows, table_VD, filler):
    """Slot k should say the k-th of K chunks of the English tokens: how far from it, as bag of words and cosine; and it."""
    cuts = [[round(k * max(len(ids), K) / K) for k in range(K + 1)] for ids in rows]
    chunks = [[ids[a:b] or [filler] for a, b in pairwise(cut)] for ids, cut in zip(rows, cuts, strict=True)]
    distinct = sorted({i for row in chunks for chunk in row for i in chunk})
    wanted_BKU = torch.tensor([[[chunk.count(i) / len(chunk) for i in distinct] for chunk in row] for row in chunks])
    targets_BKD, unit_UD = wanted_BKU @ table_VD[distinct], F.normalize(table_VD[distinct], dim=-1)
    bag = -(wanted_BKU * (F.normalize(slots_BKD, dim=-1) @ unit_UD.T / 0.07).log_softmax(-1)).sum(-1).mean()
    return bag, 1 - F.cosine_similarity(slots_BKD, targets_BKD, dim=-1).mean(), targets_BKD


def prompt_ids(tokenizer):
    """Token ids before and behind the slots, in the chat template, up to the assistant's first token."""
    turns = [{"role": r, "content": c} for r, c in (("system", SYSTEM), ("user", f"{INSTRUCTION}\n\ue000"))]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return [tokenizer(part, add_special_tokens=False).input_ids for part in text.split("\ue000")]


def in_prompt(decoder, prompt, slots_BKD):
    """The prompt's embeddings [B, P, D] with the slots in their place: the decoder never sees the foreign text."""
    before_PD, behind_PD = (decoder.get_input_embeddings()(torch.tensor(ids)) for ids in prompt)
    rows = (len(slots_BKD), -1, -1)
    return torch.cat([before_PD.expand(rows), slots_BKD, behind_PD.expand(rows)], dim=1)


def target_loss(decoder, prompt, slots_BKD, targets):
    """Nats per target token, its end of turn included; padding is on the right, where no token sees it."""
    labels_BL = nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in targets], batch_first=True, padding_value=-100)
    said_BLD = decoder.get_input_embeddings()(labels_BL.clamp(min=0))[:, :-1]
    embeds = torch.cat([in_prompt(decoder, prompt, slots_BKD), said_BLD], dim=1)
    logits_BLV = decoder(inputs_embeds=embeds, logits_to_keep=labels_BL.shape[1]).logits
    return F.cross_entropy(logits_BLV.flatten(0, 1), labels_BL.flatten())


def main(encoder, decoder, pairs, layer, text, steps):
    torch.manual_seed(17)
    rows = [json.loads(line) for line in open(pairs, encoding="utf-8")]  # noqa: SIM115
    foreign, english, N = [row["foreign"] for row in rows], [row["english"] for row in rows], len(rows)
    encoder, decoder = (ensure(name, role).path for name, role in ((encoder, "encoder"), (decoder, "decoder")))
    reader, tokens = AutoTokenizer.from_pretrained(encoder), AutoTokenizer.from_pretrained(decoder)
    encoder = AutoModel.from_pretrained(encoder, dtype=torch.float32).eval().requires_grad_(False)
    decoder = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32).eval().requires_grad_(False)

    # Features. A text is encoded once, for all of training. The English side is one more input with the same answer. An
    # encoder keeps languages apart by nearly one constant vector, so the mean of each side is taken out.
    states = [encode(encoder, reader, t, layer) for t in foreign + english]
    mean_H = [torch.stack([s_TH.mean(0) for s_TH in side]).mean(0) for side in (states[:N], states[N:])]
    std_H = torch.cat(states[:N]).std(0)
    states = [(s_TH - mean_H[n >= N]) / std_H for n, s_TH in enumerate(states)]
    pooled_2NH = torch.stack([s_TH.mean(0) for s_TH in states])  # a sentence's vector is the mean over its tokens
    pooled_2NH = pooled_2NH / (pooled_std_H := pooled_2NH.std(0))

    # Teacher: the mean of the decoder's own input embeddings of the English, their common mean taken out.
    table_VD = decoder.get_input_embeddings().weight
    ids = [tokens(t, add_special_tokens=False, split_special_tokens=True).input_ids for t in english] * 2
    teacher_2ND = torch.stack([table_VD[row].mean(0) for row in ids])
    teacher_2ND = teacher_2ND - teacher_2ND.mean(0)
    text_2N = torch.tensor([english.index(t) for t in english] * 2)

    # Stage A: the projector learns to put a sentence where the teacher puts its translation.
    H, D = pooled_2NH.shape[1], table_VD.shape[1]
    projector = nn.Sequential(nn.Linear(H, WIDE), nn.GELU(), nn.LayerNorm(WIDE), nn.Dropout(0.1), nn.Linear(WIDE, D))
    optimizer = torch.optim.AdamW(projector.parameters(), lr=1e-3, weight_decay=0.05)
    for step in range(steps[0]):
        rows = torch.randperm(2 * N)[:BATCH]
        student_BD, teacher_BD = projector(pooled_2NH[rows]), teacher_2ND[rows]
        nce = info_nce(student_BD, teacher_BD, text_2N[rows], 0.1 - 0.05 * step / steps[0])
        direction = (F.normalize(student_BD, dim=-1) - F.normalize(teacher_BD, dim=-1)).square().sum(-1).mean()
        log_norm = (student_BD.norm(dim=-1).log() - teacher_BD.norm(dim=-1).log()).square().mean()
        update(optimizer, nce + 0.05 * direction + 0.02 * log_norm)
    aligned_2ND = projector.eval()(pooled_2NH).detach()  # the projector stays as it is from here on
    nearest_N = (F.normalize(aligned_2ND[:N], dim=-1) @ F.normalize(teacher_2ND[:N], dim=-1).T).argmax(1)
    print(f"stage A: R@1 {(text_2N[nearest_N] == text_2N[:N]).float().mean():.3f} of {N}")

    # Warm start: the decoder reads one kind of soft token well already, its own embeddings. The slots learn to imitate
    # those of the English, which needs no pass through the decoder.
    injector = Injector(H, D, float(table_VD.norm(dim=1).median()))
    filler = tokens("\n", add_special_tokens=False).input_ids[0]
    optimizer = torch.optim.AdamW(injector.parameters(), lr=1e-3, weight_decay=0.01)
    for _ in range(steps[1]):
        rows = torch.randperm(2 * N)[:BATCH]
        slots_BKD = injector(aligned_2ND[rows], [states[i] for i in rows])
        bag, cosine, _ = imitation(slots_BKD, [ids[i] for i in rows], table_VD, filler)
        update(optimizer, bag + cosine)
    print(f"warm start: bag of words {bag:.3f}, cosine {cosine:.3f}")

    # Stage B: LoRA and injector learn that the frozen decoder answers from the slots.
    decoder = get_peft_model(decoder, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    prompt, targets = prompt_ids(tokens), [[*row, tokens.eos_token_id] for row in ids]
    none_KD = table_VD.mean(0).expand(K, -1)  # reserved tokens: what stands in the slots where there is no text
    groups = [{"params": decoder.parameters(), "lr": 1e-3}, {"params": injector.parameters(), "lr": 5e-4}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)  # what is frozen has no gradient and stays
    for step in range(steps[2]):
        rows = torch.randperm(N)[:BATCH]
        slots_BKD = injector(aligned_2ND[rows], [states[i] for i in rows])
        right = target_loss(decoder, prompt, slots_BKD, [targets[i] for i in rows])
        bag, cosine, aims_BKD = imitation(slots_BKD, [ids[i] for i in rows], table_VD, filler)
        nce = info_nce(slots_BKD.mean(1), aims_BKD.mean(1), text_2N[rows], 0.07)
        loss = right + 0.1 * bag + 0.05 * cosine + 1e-3 * nce
        if step % 3 == 0:  # usage contrast: positive only where the slots are worse than nothing
            zero = target_loss(decoder, prompt, none_KD.expand(len(rows), -1, -1), [targets[i] for i in rows])
            loss = loss + 0.05 * (right - zero).clamp(min=0)
        update(optimizer, loss)

    with torch.no_grad():  # do the slots carry it? Their own, none, those of another text of the last batch
        slots_BKD = injector(aligned_2ND[rows], [states[i] for i in rows])
        for kind, given in {"right": slots_BKD, "zero": none_KD[None], "shuffled": slots_BKD.roll(1, 0)}.items():
            loss = target_loss(decoder, prompt, given.expand_as(slots_BKD), [targets[i] for i in rows])
            print(f"stage B, {kind} slots: {loss:.3f} nats per token")

        # An answer: encoder, the language's mean out, projector, injector, prompt, decoder with LoRA.
        states_TH = (encode(encoder, reader, text or foreign[0], layer) - mean_H[0]) / std_H
        slots_1KD = injector(projector(states_TH.mean(0)[None] / pooled_std_H), [states_TH])
        embeds = in_prompt(decoder, prompt, slots_1KD)
        answer = decoder.generate(inputs_embeds=embeds, max_new_tokens=40, eos_token_id=tokens.eos_token_id)
        print(tokens.decode(answer[0], skip_special_tokens=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pairs of sentences in, an English answer about a foreign text out.")
    for name in ("encoder", "decoder", "pairs"):
        parser.add_argument(name)
    parser.add_argument("--layer", type=int, default=-1, help="of the encoder")
    parser.add_argument("--text", help="what to translate; otherwise the first text of the pairs")
    parser.add_argument("--steps", type=int, nargs=3, default=(300, 300, 40), help="of stage A, warm start, stage B")
    main(**vars(parser.parse_args()))
