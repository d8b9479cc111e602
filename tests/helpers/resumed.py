"""Runs that are stopped in mid-epoch, and whether two runs end alike."""

import time

import torch


def checkpoint(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True, map_location="cpu")


def assert_same_end(run, other):
    """As `assert_same_state`, of the last checkpoints of two runs."""
    assert_same_state(checkpoint(run), checkpoint(other))


def assert_same_state(first, second):
    """Weights and optimizer moments, bit for bit; with a moving average, it and what it averages."""
    assert first["global_step"] == second["global_step"] > 0
    for state in {"state_dict", "current_model_state"} & first.keys():
        assert first[state].keys() == second[state].keys()
        assert all(torch.equal(first[state][name], second[state][name]) for name in first[state])
    moments, others = (c["optimizer_states"][0]["state"] for c in (first, second))
    assert all(torch.equal(moments[i][key], others[i][key]) for i in moments for key in moments[i])


def stop_at_second_save(run, process, number):
    """Sends ``number`` when the second mid-epoch checkpoint exists; False when training was faster than this."""
    recent = run / "checkpoints" / "recent.ckpt"
    seen = set()
    while process.poll() is None:
        if recent.exists():
            seen.add(recent.stat().st_mtime_ns)
            if len(seen) == 2:
                process.send_signal(number)
                return True
        time.sleep(0.002)
    return False
