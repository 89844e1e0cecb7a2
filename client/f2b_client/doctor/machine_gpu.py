"""The graphics processor, where one was asked for: there, with a driver that fits, and free."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from f2b_client.doctor.finding import Finding
from f2b_client.doctor.outcome import failed, passed, warned
from f2b_client.settings import SiteFolder, load_compute_settings
from face2bone_model.contract.errors import SettingsError

NEED_BYTES = 2_000_000_000
DRIVER_FILE = Path("/dev/nvidiactl")
WHERE = "site.toml [compute] device"


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """What the driver and torch say."""

    present: bool
    """An NVIDIA driver is loaded."""
    built_for: str
    """The CUDA version torch was built for; empty for a torch without CUDA."""
    usable: bool
    fault: str = ""
    """Why it is not usable, in the driver's words."""
    free_bytes: int = 0
    total_bytes: int = 0


def read_gpu() -> GpuFacts:
    """Ask torch, which is loaded for this: about two seconds."""
    import torch

    built_for, present = torch.version.cuda or "", DRIVER_FILE.exists()
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # torch
        free, total = torch.cuda.mem_get_info()
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
        return GpuFacts(present=present, built_for=built_for, usable=False, fault=str(error).split("\n")[0])
    return GpuFacts(present=present, built_for=built_for, usable=True, free_bytes=free, total_bytes=total)


def check_gpu(folder: SiteFolder, *, facts: GpuFacts | None = None) -> Iterator[Finding]:
    """Whether the device of site.toml can be used; `facts` are this machine's where None."""
    try:
        device = load_compute_settings(folder).device
    except (SettingsError, OSError):
        yield passed(
            "gpu", "Not looked at: [compute] of site.toml cannot be read.", WHERE
        )  # a failure of `threads`
        return
    kind = device.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda"):
        yield failed("gpu", f"'{device}' is not a device.", WHERE, "Use auto, cpu or cuda.")
    elif kind == "cpu":
        yield passed("gpu", "Training uses the processor, as asked.", WHERE)
    elif kind == "auto" and facts is None and not DRIVER_FILE.exists():
        yield passed("gpu", "There is no GPU; training uses the processor.", WHERE)
    else:
        yield from _judge(facts or read_gpu(), asked=kind == "cuda")


def _judge(facts: GpuFacts, *, asked: bool) -> Iterator[Finding]:
    if not facts.usable:
        yield from _unusable(facts, asked=asked)
    elif facts.free_bytes < NEED_BYTES:
        say = failed if asked else warned
        yield say(
            "gpu-taken",
            f"{facts.free_bytes / 1e9:.1f} GB of the GPU's {facts.total_bytes / 1e9:.0f} GB are free: another program "
            "uses it.",
            WHERE,
            "`nvidia-smi` names the program. End it, choose another GPU (CUDA_VISIBLE_DEVICES), or "
            'set device = "cpu".',
        )
    else:
        yield passed("gpu", f"A GPU is there with {facts.free_bytes / 1e9:.0f} GB free.", WHERE)


def _unusable(facts: GpuFacts, *, asked: bool) -> Iterator[Finding]:
    say = failed if asked else warned
    if not facts.present and not asked:
        yield passed("gpu", "There is no GPU; training uses the processor.", WHERE)
    elif not facts.present:
        yield say("gpu", "A GPU is asked for and there is none.", WHERE, 'Set device = "cpu" or "auto".')
    elif not facts.built_for:
        yield say(
            "gpu",
            "There is a GPU, and the installed torch was built without CUDA.",
            WHERE,
            'Install the CUDA build of the same torch version, or set device = "cpu".',
        )
    elif "too old" in facts.fault or "insufficient" in facts.fault:
        yield say(
            "gpu-driver",
            f"The GPU's driver is too old for torch, built for CUDA {facts.built_for}.",
            WHERE,
            f'Install a driver for CUDA {facts.built_for} or newer, or set device = "cpu". It said: {facts.fault}',
        )
    else:
        yield say(
            "gpu",
            f"There is a GPU and it cannot be used: {facts.fault or 'no reason given'}",
            WHERE,
            'Look at `nvidia-smi`; reboot after a driver update; or set device = "cpu".',
        )
