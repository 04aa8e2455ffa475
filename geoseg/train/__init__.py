"""Training: from a configuration and labelled scenes to a model package."""

from geoseg.package import HISTORY_NAME
from geoseg.train.loop import train
from geoseg.train.record import Epoch, TrainEvent, TrainResult

__all__ = ["HISTORY_NAME", "Epoch", "TrainEvent", "TrainResult", "train"]
