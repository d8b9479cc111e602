"""Reads what wandb wrote offline: records in LevelDB's log format, as `wandb sync` would send them."""

import json
import struct

BLOCK, HEADER = 32768, 7
WHOLE, LAST = 1, 4


def records(path):
    """The records (protocol buffers) of a ``.wandb`` file."""
    from wandb.proto import wandb_internal_pb2 as pb

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = HEADER, b""
    while position + HEADER <= len(data):
        room = BLOCK - position % BLOCK
        if room < HEADER:  # the rest of a block is padding
            position += room
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER])
        parts += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (WHOLE, LAST):
            record = pb.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


class OfflineRun:
    """Group, name, job_type, config, history (a dict a step), summary and artifacts of an offline run."""

    def __init__(self, folder):
        (file,) = folder.glob("*.wandb")
        self.config, self.history, self.summary, self.artifacts = {}, [], {}, {}
        for record in records(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.id = record.run.run_id
                self.group, self.name, self.job_type = (
                    record.run.run_group, record.run.display_name, record.run.job_type
                )  # fmt: skip
                self.config |= values(record.run.config.update)
            elif kind == "config":
                self.config |= values(record.config.update)
            elif kind == "history":
                self.history.append(values(record.history.item))
            elif kind == "summary":
                self.summary |= values(record.summary.update)
            elif kind == "artifact":
                self.artifacts[record.artifact.name] = record.artifact


def values(items):
    """Key → value of repeated fields; a nested key is a dictionary in a dictionary."""
    found = {}
    for item in items:
        *parents, last = list(item.nested_key) or [item.key]
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = json.loads(item.value_json)
    return found
