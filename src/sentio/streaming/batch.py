"""Streams as they come; the same for networks in PyTorch and for a box, see `sentio.core.stream_batch`."""

from sentio.core.stream_batch import Answer, SingleStream, StreamBatch, Warming

__all__ = ["Answer", "SingleStream", "StreamBatch", "Warming"]
