"""devices.py: the number format and the GPUs that are taken, by their compute capability."""
import argparse

import pytest
import torch

from machinery import devices


@pytest.mark.parametrize(("capability", "dtype"), [
    ((6, 0), torch.float32), ((7, 0), torch.float32), ((7, 5), torch.float32),
    ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)])
def test_bfloat16_only_where_a_gpu_has_it(monkeypatch, capability, dtype):
    """Below 8.0 a GPU emulates bfloat16, and its convolutions crawl: there it is float32."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert devices.precision("cuda") == dtype


@pytest.mark.parametrize(("capability", "taken"), [
    ((6, 0), False), ((7, 0), False), ((7, 5), True), ((8, 6), True), ((8, 9), True),
    ((9, 0), True), ((12, 1), True), ((10, 3), True), ((13, 0), False)])
def test_a_gpu_without_kernels_is_passed_over(monkeypatch, capability, taken):
    """The wheel has kernels for 7.5 to 12.0: what it lacks is refused by name, and not by auto."""
    built = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    assert (devices.device_flag("auto").type == "cuda") == taken
    if not taken:
        with pytest.raises(argparse.ArgumentTypeError, match=f"{capability[0]}.{capability[1]}"):
            devices.device_flag("cuda")
