"""The contrastive loss of ICON: SKCC over joints and PRCC over limbs (Xu et al., *Inter-image Contrastive Consistency
for Multi-Person Pose Estimation*, AAAI 2023), from top to bottom with the paper's equations. docs/loss.md says how to
use it, ``reference.py`` has it as loops.

A token is a unit vector: f_k, read from the embedding map at joint k of an instance, or, of a limb (a, b),

    f_ab = (f_a + f_b) / 2, normalized, if both ends are visible                                          (Eq. 2, 3)

A token's category is its joint, or its limb. For a query token i, with s = cosine to i / tau, positives p of the same
category and another instance, and negatives n of other categories:

    L_i = mean_p -log( e^{s_p} / (e^{s_p} + sum_n e^{s_n}) )                                              (Eq. 1)

    L_SKCC = mean over joints of the mean of L_i over the queries of a joint                              (Eq. 1)
    L_PRCC = the same over limbs                                                                          (Eq. 4)
    total  = skcc L_SKCC + prcc L_PRCC,     to be added to the heatmap loss times lambda_p                (Eq. 5)

Positives and negatives come from this step's instances of all ranks and from a memory bank of earlier steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from icon_dist.distributed import sum_over_ranks, world_size
from icon_dist.losses import health, sampling
from icon_dist.losses.exchange import Centers, SharedKeys
from icon_dist.losses.health import Health
from icon_dist.losses.info_nce import info_nce_sums, mean_of_categories
from icon_dist.losses.intra import intra_sums
from icon_dist.losses.options import PRCC, SKCC, Bank, Inputs, Options, Term, check_inputs, check_settings, pairs_of
from icon_dist.losses.sampling import Negatives
from icon_dist.losses.tokens import TokenBatch, Tokens, limb_tokens, pixel_offsets, pixel_set, pixels_under, read_points
from icon_dist.types import DeviceStep, KeySet, Pixels


@dataclass(frozen=True)
class IconOutput:
    """What the loss returns; with several ranks, the mean over ranks of each is that of the joined batch."""

    total: Float[Tensor, ""]  # for the backward pass
    skcc: Float[Tensor, ""]  # L_SKCC, without its weight and without gradient
    prcc: Float[Tensor, ""]  # L_PRCC
    health: Callable[[], dict[str, Health]]  # by term; to be called before commit(), and by all ranks


class IconLoss(nn.Module):
    """``skcc * L_SKCC + prcc * L_PRCC`` of plain tensors, for any model, loop and launcher.

    It has no parameters. Its state, the memory bank and the number of steps, is in ``state_dict()``; it follows the
    device of what it is given. Where ``torch.distributed`` is initialized, ranks exchange their embeddings.
    """

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
        """``num_joints`` K; ``limbs``: pairs of joints for PRCC, or chains of 3 or 4; ``dim`` m of an embedding.

        ``tau``: the temperature. ``bank``: slots per category, 0 for none, or a :class:`Bank`. ``skcc``, ``prcc``:
        weights, or a :class:`Term` with its sampling. ValueError, in one line, where they do not fit together.
        """
        super().__init__()
        options = Options() if options is None else options
        bank = bank if isinstance(bank, Bank) else Bank(bank)
        pairs = pairs_of(limbs)
        terms = {
            "skcc": skcc if isinstance(skcc, Term) else replace(SKCC, weight=skcc),
            "prcc": prcc if isinstance(prcc, Term) else replace(PRCC, weight=prcc),
        }
        check_settings(terms, bank, options, num_joints=num_joints, limbs=pairs, dim=dim, tau=tau)
        self.num_joints, self.dim, self.tau, self.options = num_joints, dim, tau, options
        self.terms = {name: term for name, term in terms.items() if term.weight > 0}
        self._limbs = torch.tensor(pairs, dtype=torch.int64).reshape(-1, len(pairs[0]) if pairs else 2)
        self._offsets = pixel_offsets(sigma=options.sigma, points=options.points)
        categories = {name: num_joints if name == "skcc" else len(pairs) for name in self.terms}
        if options.contrast == "intra":
            bank = replace(bank, slots=0, exchange="sync")
        self._keys = SharedKeys(bank, categories, self._limbs, dim=dim, seed=options.seed)

    def forward(
        self,
        embedding: Float[Tensor, "N m _ _"] | tuple[Float[Tensor, "N m 1 pixels"], Pixels],
        joints: Float[Tensor, "N K 2"],
        visible: Bool[Tensor, "N K"],
        instance_id: Int[Tensor, " N"],
        *,
        heatmaps: Float[Tensor, "N K h w"] | None = None,
        errors: Float[Tensor, "N K"] | None = None,
        image_id: Int[Tensor, " N"] | None = None,
        step: int | DeviceStep | None = None,
    ) -> IconOutput:
        """The loss of a batch of N instances. Collective: all ranks call it, each with the same N.

        ``joints`` are xy in input px; ``visible`` says which count; ``instance_id`` is unique in the dataset. Hard
        queries are those whose ``heatmaps`` are uncertain and whose ``errors`` are large; neither gets a gradient. With
        ``image_id`` positives are of other images. Micro-batches of an optimizer step are calls with the same ``step``.
        ``embedding`` is the whole map [N, m, he, we]; or a pair: [N, m, 1, pixels], and the pixels that :meth:`pixels`
        gave for these joints.

        After ``optimizer.step()``, call ``commit()``, or ``discard()`` if the step was skipped: another call before is
        a RuntimeError. In ``eval()`` mode nothing is remembered. ValueError, in one line, for inputs that do not fit.
        """
        there, pixels = embedding if isinstance(embedding, tuple) and len(embedding) == 2 else (embedding, None)
        inputs = Inputs(there, joints, visible, instance_id, heatmaps, errors, image_id, pixels)
        hard = any(term.query == "hard" for term in self.terms.values())
        check_inputs(inputs, num_joints=self.num_joints, dim=self.dim, hard=hard)
        owner = instance_id if image_id is None else image_id
        batch = TokenBatch(self._tokens(inputs), instance_id.long(), owner.long(), self._keys.begin(step))
        centers = self._share(batch) if self.options.contrast == "inter" else {}
        compared = {name: self._compare(i, name, batch, centers) for i, name in enumerate(self.terms)}
        sums = {name: self._sums(each) for name, each in compared.items()}

        gathered = sum_over_ranks(torch.cat([count for _, count in sums.values()]))
        counts = dict(zip(sums, torch.split(gathered, [len(count) for _, count in sums.values()]), strict=True))
        # Sums are this rank's and counts are all ranks'; the factor undoes the mean over ranks that gradients get.
        losses = {name: world_size() * mean_of_categories(each, counts[name]) for name, (each, _) in sums.items()}
        total = torch.stack([self.terms[name].weight * loss for name, loss in losses.items()]).sum()  # Eq. 5
        # Comparisons with NaN are false, so that Eq. 1 leaves out tokens that are not finite: a loop must see them.
        total = total + 0 * batch.tokens["skcc"].features[:, :, 0].detach().sum()
        if not self.training:
            self.discard()

        values = {name: loss.detach() for name, loss in losses.items()}

        def measure() -> dict[str, Health]:
            shared = centers or self._share(batch, keep=False)
            return {
                name: self._health(name, each, shared[name], loss=values[name], counts=counts[name])
                for name, each in compared.items()
            }

        zero = torch.zeros_like(total.detach())
        return IconOutput(total, values.get("skcc", zero), values.get("prcc", zero), measure)

    def pixels(self, joints: Float[Tensor, "N K 2"], visible: Bool[Tensor, "N K"], *, hw: Sequence[int]) -> Pixels:
        """The pixels of the embedding map that a call will read of images of ``hw`` px, and some others.

        All are different, and as many whatever the joints. A projection head need not compute the rest of its map.
        """
        stride = self.options.stride
        points = self._points(joints, visible & joints.isfinite().all(2)) / stride
        map_hw = hw[0] // stride, hw[1] // stride
        return Pixels(pixels_under(points, map_hw, most=self.most_pixels), map_hw)

    @property
    def most_pixels(self) -> int:
        """How many pixels of an embedding map a call can read."""
        return self.num_joints * (4 + (1 if self._aligned else 4) * len(self._offsets))

    @property
    def _aligned(self) -> bool:
        """Whether all points but the joint itself are pixels of the embedding map."""
        return self.options.stride == self.options.heatmap_stride and not self.options.origin

    @property
    def pending(self) -> int | DeviceStep | None:
        """The number of the step that waits for ``commit()`` or ``discard()``, if one does."""
        return self._keys.pending

    def commit(self, keep: Bool[Tensor, ""] | None = None) -> None:
        """The step counts: the tokens of all its calls may enter the bank. Nothing to do where none is pending.

        Where ``keep`` does not hold it is as ``discard()``; a device need not tell the host which it is.
        """
        self._keys.commit(keep)

    def discard(self) -> None:
        """The step does not count, as where its gradients were not finite: nothing of it enters the bank."""
        self._keys.discard()

    def _tokens(self, inputs: Inputs) -> dict[str, Tokens]:
        """The joints of the batch and, for PRCC, its limbs (Eq. 2, 3), with how hard each is."""
        own = self.options
        self._limbs = self._limbs.to(inputs.joints.device)  # copied once
        visible = inputs.visible & inputs.joints.isfinite().all(2)
        points = self._points(inputs.joints, visible)
        features, inside = read_points(
            inputs.embedding, points, stride=own.stride, read=own.read, pixels=inputs.pixels, aligned=self._aligned
        )
        present = visible & inside[:, :, 0]  # a joint exists where its own embedding can be read
        active = inside & present[..., None]
        if inputs.heatmaps is None or inputs.errors is None:
            scores = torch.zeros_like(present, dtype=features.dtype)
        else:
            wide = torch.promote_types(inputs.errors.dtype, torch.float32)
            heatmaps, errors = inputs.heatmaps.detach(), torch.where(present, inputs.errors.detach().to(wide), 0.0)
            scores = sampling.hard_scores(heatmaps, errors, present, entropy=own.entropy, scope=own.query_scope)
        tokens = {"skcc": Tokens(features, active, scores)}
        if "prcc" in self.terms:
            limbs = limb_tokens(features, active, self._limbs)
            tokens["prcc"] = Tokens(*limbs, sampling.limb_scores(scores, self._limbs))
        return tokens

    def _points(self, joints: Float[Tensor, "N K 2"], visible: Bool[Tensor, "N K"]) -> Float[Tensor, "N K T 2"]:
        """Where embeddings are read, input px from the first px of their map."""
        self._offsets = self._offsets.to(joints.device)  # copied once
        known = torch.where(visible[..., None], joints, 0.0)  # an unknown joint may be NaN
        points = pixel_set(known, self._offsets, stride=self.options.heatmap_stride)
        return points - self.options.origin if self.options.origin else points

    def _share(self, batch: TokenBatch, *, keep: bool = True) -> dict[str, Centers]:
        """The center tokens of all ranks by term; kept for the bank, or only to be looked at. Collective."""
        joints = batch.tokens["skcc"]
        return self._keys.share(
            Centers(joints.features[:, :, 0], joints.active[..., 0], batch.owner), step=batch.step, keep=keep
        )

    def _compare(self, number: int, name: str, batch: TokenBatch, centers: dict[str, Centers]) -> _Compared:
        """The queries of a term, and what they are compared with."""
        own, term, tokens = self.options, self.terms[name], batch.tokens[name]
        query, negative = term.draws(*(sampling.step_key(own.seed, batch.step, 2 * number + i) for i in (1, 2)))
        is_query = sampling.query_tokens(query, tokens, batch.instance, scope=own.query_scope, most=own.max_queries)
        most = sampling.most_queries(query, shape=is_query.shape, most=own.max_queries)
        negatives = Negatives(negative, term.category_score, own.negatives_from_others, own.max_negatives)
        keys = centers[name].keys() if centers else None
        return _Compared(batch, tokens, is_query, most, negatives, keys, self._keys.stored(name, step=batch.step))

    def _sums(self, these: _Compared) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
        """Eq. 1, or Eq. 4: per category, the sum of L_i over its queries, and the number of these."""
        batch, tokens, negatives = these.batch, these.tokens, these.negatives
        if these.keys is None:
            return intra_sums(
                tokens.features, tokens.active, these.is_query, batch.instance, negatives=negatives, tau=self.tau
            )
        queries = sampling.query_rows(
            tokens, these.is_query, instance=batch.instance, owner=batch.owner, limit=these.most
        )
        return info_nce_sums(
            queries, these.keys, bank=these.bank, negatives=negatives, tau=self.tau, products=self.options.products
        )

    def _health(
        self, name: str, these: _Compared, centers: Centers, *, loss: Float[Tensor, ""], counts: Float[Tensor, " C"]
    ) -> Health:
        features = centers.features.detach()
        if these.keys is None:  # a batch whose tokens are all alike
            alike = replace(these, tokens=replace(these.tokens, features=torch.zeros_like(these.tokens.features)))
            chance = mean_of_categories(sum_over_ranks(self._sums(alike)[0]), counts)
        else:
            stored = [keys for keys in (these.keys, these.bank) if keys is not None]
            categories = these.negatives.draw.mean(len(counts) - 1)
            chance = health.chance_loss(stored, categories=categories, most=these.negatives.most)
        return Health(
            loss,
            chance,
            cosine=health.mean_cosine(features, centers.visible),
            purity=health.purity(features, centers.visible, centers.instance),
            **self._keys.bank_health(name, step=these.batch.step),
        )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Torch calls it for ``state_dict()``; buffers would be broadcast, cast, and kept to one shape."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + name: tensor for name, tensor in self._keys.state_dict().items()})

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, _metadata: Any, _strict: bool, missing_keys: list[str], *_: Any
    ) -> None:
        """Torch calls it for ``load_state_dict()``. CheckpointError where the state is of another loss."""
        own = {name.removeprefix(prefix): x for name, x in state_dict.items() if name.startswith(prefix)}
        if own:
            self._keys.load_state_dict(own)
        else:  # of a module that was trained without it: torch decides, by ``strict``
            missing_keys += [prefix + name for name in self._keys.state_dict()]


@dataclass(frozen=True)
class _Compared:
    """One term's tokens of a batch: which of them are queries, and what these are compared with."""

    batch: TokenBatch
    tokens: Tokens
    is_query: Bool[Tensor, "N C T"]
    most: int  # queries that there can be
    negatives: Negatives
    keys: KeySet | None  # this step's; None within an instance
    bank: KeySet | None  # once it is ready
