"""The contrast with every option, one token after the other: nothing here is a tensor of
tokens, a mask or a padded row. Only the random numbers and the pixel set's offsets are the package's own."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from icon_dist.config import ContrastConfig, LossConfig
from icon_dist.losses.sampling import key_of, uniform
from icon_dist.losses.tokens import ring
from icon_dist.types import Batch, Outputs, Skeleton

STRIDE, SIGMA = 4, 2.0
Place = tuple[int, int, int]  # person of the batch, category, point
Stored = tuple[Tensor, int]  # embedding and owner


@dataclass
class Oracle:
    cfg: LossConfig
    skeleton: Skeleton
    seed: int
    banks: dict[str, dict[int, list[Stored | None]]] = field(default_factory=dict)  # term, category: slots of a ring
    written: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))

    def __call__(self, outputs: Outputs, batch: Batch, errors: Tensor, *, step: int) -> dict[str, Tensor]:
        """The two losses of this step, which then enters the banks."""
        cfg = self.cfg
        joints = self._joints(outputs, batch)
        tokens = {"single": joints, "pair": self._pairs(joints)}
        hard = self._hard(outputs, joints, errors)
        scores = {
            "single": hard,
            "pair": {
                (n, p): hard[n, a] + hard[n, b]
                for n in range(len(batch.row))
                for p, (a, b) in enumerate(self.skeleton.limbs)
                if (n, a) in hard and (n, b) in hard
            },
        }
        person = batch.instance.tolist()
        owner = (batch.image_id if cfg.positives_from == "images" else batch.instance).tolist()
        out = {}
        for i, (name, section, classes) in enumerate(
            (("single", cfg.single, len(self.skeleton.joints)), ("pair", cfg.pair, len(self.skeleton.limbs)))
        ):
            mine = tokens[name]
            asks = self._asks(section, mine, scores[name], person, classes, key=key_of(self.seed, step, 1 + 2 * i))
            key = key_of(self.seed, step, 2 + 2 * i)
            found = defaultdict(list)
            for place in asks:
                n, c, _ = place
                if cfg.contrast == "intra":
                    positives, others = self._within(place, mine)
                else:
                    positives, others = self._between(place, mine, self.banks.get(name, {}), owner, step, key)
                compared = self._categories(section, mine[place], others, person[n], c, classes, key)
                negatives = [x for d in compared for x in others[d]]
                if positives and negatives:
                    found[c].append(self._eq1(mine[place], positives, negatives))
            means = [torch.stack(each).mean() for each in found.values()]
            out[name] = torch.stack(means).mean() if means else outputs.heatmaps.sum() * 0
            if cfg.bank.enabled and cfg.contrast == "inter":
                self._push(name, mine, owner, classes)
        return out

    def _eq1(self, query: Tensor, positives: list[Tensor], negatives: list[Tensor]) -> Tensor:
        z = torch.stack([torch.exp(query @ x / self.cfg.tau) for x in negatives]).sum()
        own = [torch.exp(query @ x / self.cfg.tau) for x in positives]
        return torch.stack([-torch.log(p / (p + z)) for p in own]).mean()

    def _joints(self, outputs: Outputs, batch: Batch) -> dict[Place, Tensor]:
        assert outputs.embedding is not None
        counted = batch.visible if self.cfg.counted == "visible" else batch.labelled
        _, _, h, w = outputs.embedding.shape
        out = {}
        for n, k in counted.nonzero().tolist():
            x, y = (batch.joints[n, k].double() / STRIDE).tolist()
            if not (0 <= x <= w - 1 and 0 <= y <= h - 1):
                continue
            around = [(math.floor(x + 0.5) + dx, math.floor(y + 0.5) + dy) for dx, dy in self._offsets()]
            for t, (u, v) in enumerate([(x, y), *around]):
                if 0 <= u <= w - 1 and 0 <= v <= h - 1:
                    out[n, k, t] = self._read(outputs.embedding[n], u, v)
        return out

    def _offsets(self) -> list[tuple[int, int]]:
        return [(int(x), int(y)) for x, y in ring(sigma=SIGMA, points=self.cfg.points).tolist()]

    def _read(self, embedding: Tensor, x: float, y: float) -> Tensor:
        if self.cfg.read == "nearest":
            x, y = math.floor(x + 0.5), math.floor(y + 0.5)
        x0, y0 = min(int(x), embedding.shape[2] - 2), min(int(y), embedding.shape[1] - 2)
        a, b = x - x0, y - y0
        mixed = (1 - b) * ((1 - a) * embedding[:, y0, x0] + a * embedding[:, y0, x0 + 1])
        mixed = mixed + b * ((1 - a) * embedding[:, y0 + 1, x0] + a * embedding[:, y0 + 1, x0 + 1])
        return mixed / mixed.norm()

    def _pairs(self, joints: dict[Place, Tensor]) -> dict[Place, Tensor]:
        out = {}
        for n, k, t in joints:
            for p, (a, b) in enumerate(self.skeleton.limbs):
                if k == a and (n, b, t) in joints:
                    middle = joints[n, a, t] + joints[n, b, t]
                    out[n, p, t] = middle / middle.norm()
        return out

    def _hard(self, outputs: Outputs, joints: dict[Place, Tensor], errors: Tensor) -> dict[tuple[int, int], float]:
        present = sorted({(n, k) for n, k, _ in joints})
        entropy = {(n, k): self._entropy(outputs.heatmaps[n, k].detach()) for n, k in present}
        wrong = {(n, k): float(errors[n, k]) for n, k in present}
        out = {}
        for n, k in present:
            shared = [j for j in present if self.cfg.query_scope == "batch" or j[0] == n]
            out[n, k] = sum(x[n, k] / sum(x[j] for j in shared) for x in (entropy, wrong))
        return out

    def _entropy(self, heatmap: Tensor) -> float:
        if self.cfg.entropy == "peak":
            p = min(max(float(heatmap.max()), 0.0), 1.0)
            return -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)
        mass = [v for v in heatmap.flatten().tolist() if v > 0]
        return -sum(v / sum(mass) * math.log(v / sum(mass)) for v in mass) / math.log(heatmap.numel())

    def _asks(
        self,
        section: ContrastConfig,
        tokens: dict[Place, Tensor],
        scores: dict[tuple[int, int], float],
        person: list[int],
        classes: int,
        *,
        key: int,
    ) -> list[Place]:
        """The queries, in order."""
        number = {n: drawn(section.queries, section.queries_to, key, person[n], classes) for n in range(len(person))}
        if section.query == "random":
            scores = {(n, c): luck(key, person[n], c) for n, c in scores}
        ranked = sorted(scores, key=lambda place: (-scores[place], place))
        if section.query == "all":
            chosen = set(ranked)
        elif self.cfg.query_scope == "batch":
            chosen = set(ranked[: sum(number.values())])
        else:
            chosen = {p for n in number for p in [p for p in ranked if p[0] == n][: number[n]]}
        asks = sorted(place for place in tokens if place[:2] in chosen)
        if not self.cfg.max_queries:
            return asks
        kept = []
        for c in range(classes):
            own = sorted((p for p in asks if p[1] == c), key=lambda p: (-luck(key, person[p[0]], c, p[2]), p))
            kept += own[: self.cfg.max_queries]
        return sorted(kept)

    def _within(self, place: Place, tokens: dict[Place, Tensor]) -> tuple[list[Tensor], dict[int, list[Tensor]]]:
        n, c, t = place
        own = [p for p in tokens if p[0] == n]
        positives = [tokens[p] for p in own if p[1] == c and (p[2] != t or self.cfg.points == 1)]
        return positives, {d: [tokens[p] for p in own if p[1] == d] for d in {p[1] for p in own} - {c}}

    def _between(
        self,
        place: Place,
        tokens: dict[Place, Tensor],
        bank: dict[int, list[Stored | None]],
        owner: list[int],
        step: int,
        key: int,
    ) -> tuple[list[Tensor], dict[int, list[Tensor]]]:
        n, c, _ = place
        positives: list[Tensor] = []
        negatives: dict[int, list[Tensor]] = {}
        for d in {p[1] for p in tokens} | set(bank):
            # where each candidate stands: this step's people, then the slots of the ring
            stand: dict[int, Stored] = {
                g: (tokens[g, d, 0], owner[g]) for g in range(len(owner)) if (g, d, 0) in tokens
            }
            if step >= self.cfg.bank.warmup:
                slots = bank.get(d, [])
                stand |= {len(owner) + s: x for s, x in enumerate(slots) if x is not None}
            if d == c:
                positives = [x for x, who in stand.values() if who != owner[n]]
                continue
            places = list(stand)
            if self.cfg.max_negatives:
                places = sorted(places, key=lambda s, d=d: -luck(key, d, s))[: self.cfg.max_negatives]
            others = [
                x for x, who in (stand[s] for s in places) if not self.cfg.negatives_from_others or who != owner[n]
            ]
            if others:
                negatives[d] = others
        return positives, negatives

    def _categories(
        self,
        section: ContrastConfig,
        query: Tensor,
        others: dict[int, list[Tensor]],
        person: int,
        category: int,
        classes: int,
        key: int,
    ) -> list[int]:
        if section.negative == "all":
            return list(others)
        number = drawn(section.negatives, section.negatives_to, key, person, classes - 1)
        if section.negative == "random":
            return sorted(others, key=lambda d: -luck(key, person, category, d))[:number]
        cosines = {d: [float(query.detach() @ x.detach()) for x in some] for d, some in others.items()}
        best = {d: max(x) if section.category_score == "max" else sum(x) / len(x) for d, x in cosines.items()}
        return sorted(others, key=lambda d: -best[d])[:number]

    def _push(self, name: str, tokens: dict[Place, Tensor], owner: list[int], classes: int) -> None:
        rings = self.banks.setdefault(name, {c: [None] * self.cfg.bank.slots for c in range(classes)})
        for c in range(classes):
            for n in range(len(owner)):
                if (n, c, 0) in tokens:
                    stored = tokens[n, c, 0].detach().float().double()  # the bank keeps fp32
                    rings[c][self.written[name, c] % self.cfg.bank.slots] = stored, owner[n]
                    self.written[name, c] += 1


def luck(key: int, *counters: int) -> float:
    return float(uniform(key, *(torch.tensor(c) for c in counters)))


def drawn(low: int, high: int, key: int, person: int, most: int) -> int:
    """Uniform from low to high inclusive, both clipped to what there is."""
    low, high = min(low, most), min(max(low, high), most)
    return low + int(luck(key, person) * (high - low + 1))
