"""Loading the frozen encoder and decoder by name, onto a device, in a number format that suits it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llink.errors import LlinkError, unknown_name
from llink.interfaces import Decoder, DecoderBackend, Encoder, EncoderBackend
from llink.plugins import decoder_backends, encoder_backends
from llink.progress import aside, no_bars
from llink.store import StoredModel, ensure

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
WITH_POOLER = ("bert", "roberta", "xlm-roberta")
"""Model types with a trained layer on top of CLS, which nothing here reads: made without it, it is neither held nor counted."""


def load_encoder(name: str, device: str = "cpu", dtype: torch.dtype | str | None = None, **options: Any) -> Encoder:
    """The frozen encoder ``name`` (an id of the registry, or a local folder).

    Args:
        name: see ``llink.store.ensure``; it is fetched at first use.
        device: torch's name of it.
        dtype: a torch dtype or its name; None chooses by ``default_dtype``.
        options: passed on to the backend (``layer``, ``max_tokens``, …).

    Raises:
        LlinkError: E104 unknown dtype, E105 unknown backend, E115 what cannot be loaded, and those of ``llink.store.ensure``
            (E103 when ``name`` is a decoder).
    """
    return _load(ensure(name, role="encoder"), encoder_backends(), device, dtype, options)


def load_decoder(name: str, device: str = "cpu", dtype: torch.dtype | str | None = None, **options: Any) -> Decoder:
    """The frozen decoder ``name``; arguments and errors as for ``load_encoder``."""
    return _load(ensure(name, role="decoder"), decoder_backends(), device, dtype, options)


def pick_device(device: str) -> str:
    """``auto`` as the accelerator that is there, else the CPU; E507 for a device that cannot be used."""
    import torch

    if device == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator.type if accelerator else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise LlinkError("E507", f"Device '{device}' cannot be used: {reason}", "Try --device cpu.") from error
    return device


def default_dtype(device: str = "cpu") -> torch.dtype:
    """bfloat16 where the hardware computes in it, else float32.

    On a CPU without AVX512-BF16 or AMX, bfloat16 is emulated and about six times slower.
    """
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if kind != "cpu":
        return torch.bfloat16
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    fast = any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return torch.bfloat16 if fast else torch.float32


def _load(
    stored: StoredModel,
    backends: Mapping[str, EncoderBackend] | Mapping[str, DecoderBackend],
    device: str,
    dtype: torch.dtype | str | None,
    options: Mapping[str, Any],
) -> Any:
    if stored.backend not in backends:
        raise unknown_name("E105", f"{stored.role} backend", stored.backend, backends)
    given = {"name": stored.name, "fingerprint": stored.fingerprint, "device": device, "dtype": _dtype(dtype, device)}
    try:
        with no_bars(), aside():
            return backends[stored.backend].load(stored.path, **given, **{**stored.options, **options})
    except LlinkError:
        raise
    except Exception as error:
        if options.get("attn_implementation"):
            raise  # ``Engine.load`` says what is wrong with it
        said = " ".join(str(error).split())[:300]
        raise LlinkError(
            "E115", f"{stored.name} in {stored.path} cannot be loaded: {type(error).__name__}: {said}.",
            "Correct its options or its files; LLINK_DEBUG=1 shows the traceback.",
        ) from error  # fmt: skip


def _dtype(dtype: torch.dtype | str | None, device: str) -> torch.dtype:
    import torch

    if dtype is None:
        return default_dtype(device)
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise unknown_name("E104", "dtype", dtype, DTYPES)
    return getattr(torch, dtype)
