"""Hidden states of the frozen layers, computed once for each row.

A row's states are computed alone, never in a batch: rounding depends on the shape of a product, so
a batch's neighbours would leave a trace, and results would depend on what was trained before.

Shapes: ``T`` tokens of a row, ``H`` hidden size.
"""

from __future__ import annotations

from collections import OrderedDict

import torch

from raise_mdit.core import Cost, EncodedRow
from raise_mdit.learners.batches import collate
from raise_mdit.learners.flops import FlopsModel
from raise_mdit.learners.forward import LayeredForward


class TrunkCache:
    """States by row, bounded in memory; the least recently used leave first.

    The ledger must not depend on what happened to be cached: each account pays for a row's states
    the first time that it needs them, as if it had run alone.
    """

    def __init__(self, forward: LayeredForward, flops: FlopsModel, *, max_bytes: int) -> None:
        self._forward = forward
        self._flops = flops
        self._max_bytes = max_bytes
        self._states: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._num_bytes = 0
        self._paid: set[str] = set()

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return self._num_bytes

    def open_account(self) -> None:
        """Charge every row anew from here on."""
        self._paid.clear()

    def states(self, rows: list[EncodedRow]) -> tuple[torch.Tensor, Cost]:
        """States of the rows, [B, T, H] padded with zeros, and what the account owes for them."""
        parts = [self._state(row) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), self._charge(rows)

    def _state(self, row: EncodedRow) -> torch.Tensor:
        state_TH = self._states.get(row.key)
        if state_TH is None:
            batch = collate([row], device=self._forward.device)
            state_TH = self._forward.trunk(self._forward.embed(batch))[0].detach().float()
            self._states[row.key] = state_TH
            self._num_bytes += state_TH.nbytes
            self._make_room()
        self._states.move_to_end(row.key, last=True)
        return state_TH

    def _make_room(self) -> None:
        while self._num_bytes > self._max_bytes and len(self._states) > 1:
            _, oldest = self._states.popitem(last=False)
            self._num_bytes -= oldest.nbytes

    def _charge(self, rows: list[EncodedRow]) -> Cost:
        new = {row.key: row for row in rows if row.key not in self._paid}
        self._paid.update(new)
        split = self._forward.split
        flops = sum(
            self._flops.layers(rows=1, length=row.num_tokens, num_layers=split)
            for row in new.values()
        )
        return Cost(flops=flops)
