"""What tests share beside fixtures: runs in forked processes, TensorBoard, records, and how to compare states."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
