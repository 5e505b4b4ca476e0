"""BPKD: the teacher's logits distilled apart at the edges of objects and in their bodies, and shared the same way.

Paper: Liu et al. 2024 (BPKD, WACV), Figure 3; the authors published no loss code. Shape letters: `n` images, `c`
classes, `h w` the grid of the logits, `rows cols` that of the labels, `r` the rows that are sent. Logits of half
precision are computed in float32.

Zeroing logits with a mask does not remove them: they still compete in the softmax with exp(0). That is the published
behaviour.

The share (the paper has none, so it is fedkd's own): the pixels of the edge band one by one, the bodies averaged over
cells of `factor` x `factor` pixels. A position is `(image h + row) w + column`, a cell has that of its first pixel.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from fedkd.functional.losses import kl_rows, masked_mean, row_mean, wide

EDGE_NORMS = ("per_class", "per_class_count", "global")
IGNORED = -100  # the label of pixels without one, as in torch's losses


def trimap(
    labels: Int[Tensor, "n rows cols"], *, num_classes: int, width: int, ignore_index: int = IGNORED
) -> Float[Tensor, "n c rows cols"]:
    """1 where a pixel is edge of a class, else 0: dilation minus erosion of each class by a square of `width` pixels.

    A pixel between classes a and b is edge for these two only. Outside the image is neither object nor background, so
    an object that the border cuts has no edge there. Ignored pixels belong to no class and are never edge themselves;
    the rim of a class beside them is (the mask is multiplied by validity, validity is not eroded). A label that is
    neither a class nor ignored counts as no class. `width` 1 gives no edges.

    Raises:
        ValueError: the width is even or below 1.
    """
    classes = torch.arange(num_classes, device=labels.device).view(1, -1, 1, 1)
    valid = (labels != ignore_index).unsqueeze(1)
    inside = (labels.unsqueeze(1) == classes) & valid
    outside_near = _dilate(~inside, width)  # all but what erosion leaves
    return (_dilate(inside, width) & outside_near & valid).float()


def edge_mask(
    labels: Int[Tensor, "n rows cols"],
    *,
    num_classes: int,
    size: tuple[int, int],
    width: int,
    ignore_index: int = IGNORED,
) -> Float[Tensor, "n c h w"]:
    """M_E in [0, 1]: the trimap averaged down to `size` (h, w), that of the logits; the body mask is 1 - M_E.

    Where the labels' size is a multiple of `size`, average pooling with kernel = stride; else adaptive average pooling.
    """
    edges = trimap(labels, num_classes=num_classes, width=width, ignore_index=ignore_index)
    return functional.adaptive_avg_pool2d(edges, size)


def decouple(
    logits: Float[Tensor, "n c h w"], edges: Float[Tensor, "n c h w"]
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
    """Edge logits Z M_E and body logits Z (1 - M_E); they add up to the logits."""
    logits = wide(logits)
    edges = edges.to(logits.dtype)
    return logits * edges, logits * (1.0 - edges)


def edge_loss(
    student: Float[Tensor, "n c h w"],
    teacher: Float[Tensor, "n c h w"],
    edges: Float[Tensor, "n c h w"],
    *,
    temperature: float,
    alpha: float,
    norm: str = "per_class",
) -> Float[Tensor, ""]:
    """L_E = mean over images of alpha sum_c (1 / n_c) sum_i phi_i M_E[c, i], 0 with a gradient path without edges.

    phi_i = T^2 KL(softmax_c(Z_E^T / T) || softmax_c(Z_E^S / T)) at pixel i, over classes. Unlike the body loss it is a
    sum over classes, not a mean. The figure's last box reads "Sum / Mask Pixels", which `norm` reads as

    * `per_class`: n_c is the mass of the class's mask, at least 1;
    * `per_class_count`: n_c is the number of its entries above 0, at least 1;
    * `global`: one n for all classes, the mass of all masks of the image, at least 1.

    Raises:
        ValueError: no such norm.
    """
    if norm not in EDGE_NORMS:
        raise ValueError(f"edge norm is {norm!r}, expected one of {', '.join(EDGE_NORMS)}")
    divergence = kl_rows(decouple(student, edges)[0], decouple(teacher, edges)[0], dim=1, temperature=temperature)
    edges = edges.to(divergence.dtype)
    weighted = torch.einsum("nhw,nchw->nc", divergence, edges)
    size = (edges > 0).to(edges.dtype) if norm == "per_class_count" else edges
    count = size.sum((2, 3))
    if norm == "global":
        return alpha * row_mean(weighted.sum(1) / count.sum(1).clamp_min(1.0))
    return alpha * row_mean((weighted / count.clamp_min(1.0)).sum(1))


def body_loss(
    student: Float[Tensor, "n c h w"],
    teacher: Float[Tensor, "n c h w"],
    edges: Float[Tensor, "n c h w"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """L_B: the channel-wise loss on the body logits Z (1 - M_E)."""
    return channel_wise_loss(decouple(student, edges)[1], decouple(teacher, edges)[1], temperature=temperature)


def channel_wise_loss(
    student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"], *, temperature: float
) -> Float[Tensor, ""]:
    """Mean over images of (T^2 / c) sum_c KL(q_c^T || q_c^S), q_c the softmax of class c over all h w positions.

    Paper: Shu et al. 2021 (CWD). Deviation: none.
    """
    divergence = kl_rows(wide(student).flatten(2), wide(teacher).flatten(2), dim=2, temperature=temperature)
    return row_mean(divergence.mean(1))


def pixel_loss(
    student: Float[Tensor, "n c h w"],
    teacher: Float[Tensor, "n c h w"],
    *,
    temperature: float,
    keep: Bool[Tensor, "n h w"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over the kept pixels (None: all) of T^2 KL(teacher || student) over classes: plain soft targets."""
    divergence = kl_rows(wide(student), wide(teacher), dim=1, temperature=temperature).flatten()
    return masked_mean(divergence, torch.ones_like(divergence, dtype=torch.bool) if keep is None else keep.flatten())


def pixel_rows(logits: Float[Tensor, "n c h w"]) -> Float[Tensor, "p c"]:
    """One row per pixel, image by image, row by row."""
    return logits.movedim(1, -1).flatten(0, 2)


def edge_band(
    labels: Int[Tensor, "n rows cols"], *, size: tuple[int, int], width: int, ignore_index: int = IGNORED
) -> Bool[Tensor, "n h w"]:
    """True where a pixel of the grid `size` touches the edge of any class: where `edge_mask` is above 0 for some class.

    Found without a map per class: at an edge the square around a labelled pixel holds more than one label.

    Args:
        labels: classes or ignored.
    """
    maps = labels.unsqueeze(1)
    edges = (_dilate(maps, width) != -_dilate(-maps, width)) & (maps != ignore_index)
    return functional.adaptive_max_pool2d(edges.float(), size)[:, 0] > 0


def edge_rows(
    logits: Float[Tensor, "n c h w"], band: Bool[Tensor, "n h w"]
) -> tuple[Int[Tensor, " r"], Float[Tensor, "r c"]]:
    """Positions and logits of the pixels in the band, positions ascending."""
    positions = band.flatten().nonzero().squeeze(1)
    return positions, pixel_rows(logits)[positions]


def body_rows(
    logits: Float[Tensor, "n c h w"], band: Bool[Tensor, "n h w"], *, factor: int
) -> tuple[Int[Tensor, " r"], Float[Tensor, "r c"]]:
    """Positions and mean logits of the cells, over their pixels outside the band; a cell all in the band is left out.

    The band is left out of the means because it is sent as it is, and because a mean across an edge says nothing about
    either side. Cells that the grid's end cuts are smaller. Logits of half precision are averaged in float32.

    Raises:
        ValueError: factor < 1.
    """
    if factor < 1:
        raise ValueError(f"factor is {factor}, expected at least 1 pixel per cell side")
    height, width = band.shape[1:]
    keep = (~band).unsqueeze(1).to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    filled = _cell_sums(keep, factor)
    sums = _cell_sums(torch.where(keep > 0, logits.to(keep.dtype), 0.0), factor)
    spoken = filled[:, 0] > 0
    image, row, column = spoken.nonzero().unbind(1)
    positions = (image * height + row * factor) * width + column * factor
    return positions, pixel_rows(sums / filled.clamp_min(1.0))[spoken.flatten()]


def place_edges(
    positions: Int[Tensor, " r"], rows: Float[Tensor, "r c"], *, shape: tuple[int, int, int]
) -> tuple[Float[Tensor, "n c h w"], Bool[Tensor, "n h w"]]:
    """The rows back on a grid of `shape` (n, h, w) and where they are; 0 elsewhere. Inverse of `edge_rows`."""
    grid = rows.new_zeros(math.prod(shape), rows.shape[1])
    present = torch.zeros(len(grid), dtype=torch.bool, device=rows.device)
    grid[positions], present[positions] = rows, True
    return grid.view(*shape, rows.shape[1]).movedim(-1, 1), present.view(shape)


def place_bodies(
    positions: Int[Tensor, " r"], rows: Float[Tensor, "r c"], *, shape: tuple[int, int, int], factor: int
) -> tuple[Float[Tensor, "n c h w"], Bool[Tensor, "n h w"]]:
    """Each row on all pixels of its cell and which pixels have one; 0 elsewhere. Their means are the rows again."""
    logits, present = place_edges(positions, rows, shape=shape)
    first_row, first_column = (torch.arange(size, device=rows.device) // factor * factor for size in shape[1:])
    return logits[:, :, first_row][:, :, :, first_column], present[:, first_row][:, :, first_column]


def join_streams(
    edge: tuple[Float[Tensor, "n c h w"], Bool[Tensor, "n h w"]],
    body: tuple[Float[Tensor, "n c h w"], Bool[Tensor, "n h w"]],
    *,
    voters: tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"]] | None = None,
) -> tuple[Float[Tensor, "n c h w"], Bool[Tensor, "n h w"]]:
    """Dense logits from both placed streams, and where anyone spoke.

    Without `voters` an edge row wins over the cell that it lies in: right for one client, and where all clients cut the
    same band. With `voters`, how many clients spoke in each stream at each pixel, clients may have bands of their own:
    of the clients heard on an image, those that did not send a pixel as edge meant its cell for it, whoever else the
    cell's voters are, so both are averaged in that ratio. Whoever speaks of an image speaks of all of it, so the most
    voters that a pixel or cell of the image has are the clients heard, if one of them all sent alike; else too few.
    """
    (edge_logits, at_edge), (body_logits, in_body) = edge, body
    share = at_edge.float()
    if voters is not None:
        of_edge, of_cell = voters[0] * at_edge, voters[1] * in_body
        heard = torch.maximum(of_edge, of_cell).amax((1, 2), keepdim=True)
        share = torch.where(in_body, of_edge / heard.clamp_min(1.0), share)
    edge_logits, body_logits = wide(edge_logits), wide(body_logits)
    share = share.to(body_logits.dtype).unsqueeze(1)
    return torch.lerp(body_logits, edge_logits.to(body_logits.dtype), share), at_edge | in_body


def confidence(rows: Float[Tensor, "r c"]) -> Float[Tensor, " r"]:
    """The largest probability of each row, in [1/c, 1]: the weight of a client's voice for a pixel or cell."""
    return rows.float().softmax(1).amax(1)


def _dilate(x: Tensor, width: int) -> Tensor:
    """Largest value in a square around each pixel of maps (n, c, h, w) of truth values or whole numbers.

    A square is a column of rows, and a row the largest of shifted maps: on a CPU that is many times faster than max
    pooling, which was half the time of a step on CamVid. What lies outside the image never wins.
    """
    if width < 1 or width % 2 == 0:
        raise ValueError(f"edge width is {width}, expected an odd number of pixels, at least 1")
    for dim in (2, 3):
        size, widened = x.shape[dim], x.clone()
        for shift in range(1, min(width // 2, size - 1) + 1):
            for to, source in ((shift, 0), (0, shift)):
                part = widened.narrow(dim, to, size - shift)
                part.copy_(torch.maximum(part, x.narrow(dim, source, size - shift)))
        x = widened
    return x


def _cell_sums(x: Float[Tensor, "n c h w"], factor: int) -> Float[Tensor, "n c cells_h cells_w"]:
    height, width = x.shape[2:]
    padded = functional.pad(x, (0, -width % factor, 0, -height % factor))
    return functional.avg_pool2d(padded, factor, divisor_override=1)
