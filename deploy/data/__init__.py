"""Image folders and arrays → batches, in memory that does not grow with their number."""

from deploy.data.arrays import ArraySource
from deploy.data.calibration import CalibrationData, First, ImageSource, open_calibration_data
from deploy.data.files import find_images
from deploy.data.labelled import LabelledImages
from deploy.data.loading import OnError, image_batches, log_skipped

__all__ = [
    "ArraySource",
    "CalibrationData",
    "First",
    "ImageSource",
    "LabelledImages",
    "OnError",
    "find_images",
    "image_batches",
    "log_skipped",
    "open_calibration_data",
]
