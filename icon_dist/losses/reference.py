"""Equations 1 to 5 as loops: ICON's loss for reading, one token after the other.

Nothing here is a tensor of tokens, a mask or a padded row, and nothing is fast. The tests hold
:class:`icon_dist.losses.icon.IconLoss` to it with every option; only random numbers and the offsets of a pixel set are
shared with it. The equations are those of Xu et al., *Inter-image Contrastive Consistency for Multi-Person Pose
Estimation*, AAAI 2023.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from icon_dist.losses.options import PRCC, SKCC, Bank, Inputs, Options, Term
from icon_dist.losses.sampling import key_of
from icon_dist.losses.tokens import pixel_offsets
from icon_dist.tensors.random import uniform

Place = tuple[int, int, int]  # instance of the batch, category, point
Tokens = Mapping[Place, Tensor]
Scores = Mapping[tuple[int, int], float]  # of instance and category
Stored = tuple[Tensor, int]  # embedding and owner

# ------------------------------------------------------------------------------------------------------- the equations


def query_loss(query: Tensor, positives: Sequence[Tensor], negatives: Sequence[Tensor], *, tau: float) -> Tensor:
    """Eq. 1, and Eq. 4, of one query [m]: each positive stands alone in its denominator with all the negatives."""
    pushed = torch.stack([torch.exp(query @ n / tau) for n in negatives]).sum()
    pulled = [torch.exp(query @ p / tau) for p in positives]
    loss: Tensor = torch.stack([-torch.log(p / (p + pushed)) for p in pulled]).mean()
    return loss


def limb_token(*joints: Tensor) -> Tensor:
    """Eq. 2 and 3: the mean [m] of the tokens of a limb's two ends, or of a longer chain's joints, with unit norm."""
    return unit(torch.stack(joints).sum(0) / len(joints))


def unit(x: Tensor) -> Tensor:
    """``x`` [m] with unit norm."""
    normalized: Tensor = x / x.norm()
    return normalized


def mean_over_categories(losses: Mapping[int, Sequence[Tensor]]) -> Tensor:
    """Of each category the mean over its queries, then the mean over categories that have any; 0 if none has."""
    means = [torch.stack(list(some)).mean() for some in losses.values() if some]
    return torch.stack(means).mean() if means else torch.zeros(())


def total_loss(heatmap: Tensor, skcc: Tensor, prcc: Tensor, *, lambdas: tuple[float, float, float]) -> Tensor:
    """Eq. 5 with lambda_p, lambda_1 and lambda_2."""
    lambda_p, lambda_1, lambda_2 = lambdas
    return heatmap + lambda_p * (lambda_1 * skcc + lambda_2 * prcc)


# ----------------------------------------------------------------------------------------------- choices and randomness


def hard_scores(uncertainty: Scores, errors: Scores, *, scope: str = "person") -> dict[tuple[int, int], float]:
    """How hard each joint is: its share of the uncertainty plus that of the error, of its instance or the batch."""
    scores = {}
    for place in uncertainty:
        shared = [other for other in uncertainty if scope == "batch" or other[0] == place[0]]
        sums = [sum(x[other] for other in shared) for x in (uncertainty, errors)]
        scores[place] = sum(x[place] / s if s > 0 else 0.0 for x, s in zip((uncertainty, errors), sums, strict=True))
    return scores


def entropy(heatmap: Tensor, *, of: str = "heatmap") -> float:
    """Of a heatmap [h, w] as a distribution over its pixels, in units of the largest; or of its ``peak``, in bits."""
    if of == "peak":
        peak = min(max(float(heatmap.max()), 0.0), 1.0)
        return sum(-p * math.log2(p) for p in (peak, 1 - peak) if p > 0)
    mass = [v for v in heatmap.flatten().tolist() if v > 0]
    if not mass:
        return 1.0
    shares = [v / sum(mass) for v in mass]
    share: float = sum(-p * math.log(p) for p in shares) / math.log(heatmap.numel())
    return share


def negative_categories(
    query: Tensor,
    keys: Mapping[int, Sequence[Tensor]],
    *,
    strategy: str,
    count: int,
    luck: Mapping[int, float],
    score: str,
) -> list[int]:
    """The ``count`` categories that a query is pushed away from, of those other than its own that have ``keys``."""
    if strategy == "all":
        return list(keys)
    if strategy == "random":
        return sorted(keys, key=lambda c: (-luck[c], c))[:count]
    cosines = {c: [float(query.detach() @ key.detach()) for key in some] for c, some in keys.items()}
    rank = {c: max(x) if score == "max" else sum(x) / len(x) for c, x in cosines.items()}
    return sorted(keys, key=lambda c: (-rank[c], c))[:count]


def draw(key: int, *counters: int) -> float:
    """The uniform number of these counters."""
    return float(uniform(key, *(torch.tensor(counter) for counter in counters)))


def drawn_count(low: int, high: int, *, key: int, instance: int, most: int) -> int:
    """Uniform from ``low`` to ``high`` inclusive, both clipped to ``most``."""
    low, high = min(low, most), min(max(low, high), most)
    return low + int(draw(key, instance) * (high - low + 1))


# ------------------------------------------------------------------------------------------------------------- the loss


@dataclass(frozen=True)
class _Step:
    """What one term needs to know of a step."""

    term: Term
    classes: int
    instance: list[int]
    owner: list[int]  # the instance, or the image, of each row: positives have another
    keys: tuple[int, int]  # of the random numbers of queries and of negatives
    number: int


class ReferenceLoss:
    """The arguments of :class:`icon_dist.losses.icon.IconLoss`, on one process."""

    def __init__(
        self,
        *,
        num_joints: int,
        limbs: Sequence[Sequence[int]],
        dim: int,
        tau: float = 0.07,
        bank: int | Bank = 512,
        skcc: float | Term = SKCC.weight,
        prcc: float | Term = PRCC.weight,
        options: Options | None = None,
    ) -> None:
        del dim
        self.tau, self.options, self.limbs = tau, options or Options(), [tuple(map(int, limb)) for limb in limbs]
        self.bank = bank if isinstance(bank, Bank) else Bank(bank)
        self.terms = {
            "skcc": skcc if isinstance(skcc, Term) else Term(skcc),
            "prcc": prcc if isinstance(prcc, Term) else Term(prcc, query=PRCC.query, negatives=PRCC.negatives),
        }
        self.classes = {"skcc": num_joints, "prcc": len(self.limbs)}
        self.rings: dict[tuple[str, int], list[Stored | None]] = {}  # slots of a term's category
        self.written: dict[tuple[str, int], int] = defaultdict(int)  # how many entered them so far

    def __call__(self, inputs: Inputs, *, step: int) -> dict[str, Tensor]:
        """``skcc``, ``prcc`` and their weighted sum ``total`` at step 0, 1, ...; the tokens then enter the bank."""
        joints = self._joints(inputs)
        hard = self._hard(inputs, {place[:2] for place in joints})
        limbs = {
            (n, p): sum(hard[n, k] for k in limb)
            for p, limb in enumerate(self.limbs)
            for n in {n for n, _ in hard}
            if all((n, k) in hard for k in limb)
        }
        tokens, scores = {"skcc": joints, "prcc": self._limbs(joints)}, {"skcc": hard, "prcc": limbs}
        instance = inputs.instance_id.tolist()
        owner = instance if inputs.image_id is None else inputs.image_id.tolist()
        zero = 0 * inputs.embedding.sum()
        losses: dict[str, Tensor] = {}
        used = [name for name, term in self.terms.items() if term.weight > 0]
        for number, name in enumerate(used):
            keys = [key_of(self.options.seed, step, 2 * number + purpose) for purpose in (1, 2)]
            these = _Step(self.terms[name], self.classes[name], instance, owner, (keys[0], keys[1]), step)
            losses[name] = zero + self._term(name, tokens[name], scores[name], these)
            if self.options.contrast == "inter" and self.bank.slots:
                self._push(name, tokens[name], owner)
        skcc, prcc = losses.get("skcc", zero), losses.get("prcc", zero)
        weights = (1.0, self.terms["skcc"].weight, self.terms["prcc"].weight)
        return {"skcc": skcc, "prcc": prcc, "total": total_loss(zero, skcc, prcc, lambdas=weights)}

    def _term(self, name: str, tokens: Tokens, scores: Scores, step: _Step) -> Tensor:
        """SKCC or PRCC: Eq. 1 of every query that has a positive and a negative."""
        losses: dict[int, list[Tensor]] = defaultdict(list)
        for place in self._queries(tokens, scores, step):
            n, c, _ = place
            if self.options.contrast == "intra":
                positives, keys = self._within(place, tokens)
            else:
                positives, keys = self._between(place, tokens, name, step)
            term, key, instance = step.term, step.keys[1], step.instance[n]
            chosen = negative_categories(
                tokens[place],
                keys,
                strategy=term.negative,
                count=drawn_count(term.negatives, term.negatives_to, key=key, instance=instance, most=step.classes - 1),
                luck={d: draw(key, instance, c, d) for d in keys} if term.negative == "random" else {},
                score=term.category_score,
            )
            negatives = [x for d in chosen for x in keys[d]]
            if positives and negatives:
                losses[c].append(query_loss(tokens[place], positives, negatives, tau=self.tau))
        return mean_over_categories(losses)

    def _joints(self, inputs: Inputs) -> dict[Place, Tensor]:
        """Tokens of the joints, and of pixels around them, as far as they lie on the map; a visible joint must."""
        own, (h, w) = self.options, inputs.embedding.shape[2:]
        offsets = [(int(x), int(y)) for x, y in pixel_offsets(sigma=own.sigma, points=own.points).tolist()]
        tokens = {}
        for n, k in inputs.visible.nonzero().tolist():
            x, y = inputs.joints[n, k].double().tolist()
            s, t = own.heatmap_stride, own.stride
            around = [(math.floor(x / s + 0.5) + dx, math.floor(y / s + 0.5) + dy) for dx, dy in offsets]
            points = [(x / t, y / t), *((u * s / t, v * s / t) for u, v in around)]
            inside = [0 <= u <= w - 1 and 0 <= v <= h - 1 for u, v in points]
            for i, (u, v) in enumerate(points):
                if inside[0] and inside[i]:
                    tokens[n, k, i] = self._read(inputs.embedding[n], u, v)
        return tokens

    def _read(self, embedding: Tensor, x: float, y: float) -> Tensor:
        """The embedding [m] at a point of the map [m, he, we], bilinear or of the nearest pixel, with unit norm."""
        if self.options.read == "nearest":
            x, y = math.floor(x + 0.5), math.floor(y + 0.5)
        x0, y0 = min(int(x), embedding.shape[2] - 2), min(int(y), embedding.shape[1] - 2)
        a, b = x - x0, y - y0
        mixed = (1 - b) * ((1 - a) * embedding[:, y0, x0] + a * embedding[:, y0, x0 + 1])
        mixed = mixed + b * ((1 - a) * embedding[:, y0 + 1, x0] + a * embedding[:, y0 + 1, x0 + 1])
        return unit(mixed)

    def _limbs(self, joints: Tokens) -> dict[Place, Tensor]:
        """Point t of one end goes with point t of the other."""
        return {
            (n, p, t): limb_token(*(joints[n, other, t] for other in limb))
            for p, limb in enumerate(self.limbs)
            for n, k, t in joints
            if k == limb[0] and all((n, other, t) in joints for other in limb)
        }

    def _hard(self, inputs: Inputs, present: Iterable[tuple[int, int]]) -> dict[tuple[int, int], float]:
        ordered = sorted(present)
        if inputs.heatmaps is None or inputs.errors is None:
            return dict.fromkeys(ordered, 0.0)
        unsure = {(n, k): entropy(inputs.heatmaps[n, k].detach(), of=self.options.entropy) for n, k in ordered}
        wrong = {(n, k): float(inputs.errors[n, k]) for n, k in ordered}
        return hard_scores(unsure, wrong, scope=self.options.query_scope)

    def _queries(self, tokens: Tokens, scores: Scores, step: _Step) -> list[Place]:
        """All points of the chosen categories, or at most so many of each category, in order."""
        term, key, instance = step.term, step.keys[0], step.instance
        count = {
            n: drawn_count(term.queries, term.queries_to, key=key, instance=instance[n], most=step.classes)
            for n in range(len(instance))
        }
        if term.query == "random":
            scores = {(n, c): draw(key, instance[n], c) for n, c in scores}
        ranked = sorted(scores, key=lambda place: (-scores[place], place))
        if term.query == "all":
            chosen = set(ranked)
        elif self.options.query_scope == "batch":
            chosen = set(ranked[: sum(count.values())])
        else:
            chosen = {place for n in count for place in [p for p in ranked if p[0] == n][: count[n]]}
        queries = sorted(place for place in tokens if place[:2] in chosen)
        most = self.options.max_queries or len(queries)
        kept: list[Place] = []
        for c in {place[1] for place in queries}:
            own = [place for place in queries if place[1] == c]
            kept += sorted(own, key=lambda p: (-draw(key, instance[p[0]], p[1], p[2]), p))[:most]
        return sorted(kept)

    def _within(self, place: Place, tokens: Tokens) -> tuple[list[Tensor], dict[int, list[Tensor]]]:
        """Intra-image contrast: the other points of the joint, or itself if it has one, and the other joints."""
        n, c, t = place
        own = [p for p in tokens if p[0] == n]
        positives = [tokens[p] for p in own if p[1] == c and (p[2] != t or self.options.points == 1)]
        return positives, {d: [tokens[p] for p in own if p[1] == d] for d in sorted({p[1] for p in own} - {c})}

    def _between(
        self, place: Place, tokens: Tokens, name: str, step: _Step
    ) -> tuple[list[Tensor], dict[int, list[Tensor]]]:
        """Positives and, by category, possible negatives: centers of this step's instances and the bank."""
        n, c, _ = place
        positives: list[Tensor] = []
        negatives: dict[int, list[Tensor]] = {}
        for d in range(step.classes):
            rows = len(step.owner)
            stand = {g: (tokens[g, d, 0], step.owner[g]) for g in range(rows) if (g, d, 0) in tokens}
            if step.number >= self.bank.warmup:
                slots = self.rings.get((name, d), [])
                stand |= {rows + s: stored for s, stored in enumerate(slots) if stored is not None}
            if d == c:
                positives = [x for x, owner in stand.values() if owner != step.owner[n]]
                continue
            limited = list(stand.values())
            if most := self.options.max_negatives:
                luck = {s: draw(step.keys[1], d, s) for s in stand}
                limited = [stand[s] for s in sorted(stand, key=lambda s: -luck[s])[:most]]
            others = [x for x, owner in limited if not self.options.negatives_from_others or owner != step.owner[n]]
            if others:
                negatives[d] = others
        return positives, negatives

    def _push(self, name: str, tokens: Tokens, owner: list[int]) -> None:
        """The centers enter the ring of their category, over the oldest ones; the bank keeps fp32."""
        for n, c, t in sorted(tokens):
            if t == 0:
                ring = self.rings.setdefault((name, c), [None] * self.bank.slots)
                stored = tokens[n, c, t].detach().float().to(tokens[n, c, t].dtype)
                ring[self.written[name, c] % self.bank.slots] = stored, owner[n]
                self.written[name, c] += 1
