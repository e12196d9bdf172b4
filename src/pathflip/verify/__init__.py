"""Reports against slides: each sentence judged with a calibrated probability and its place; what is left out, named."""

from pathflip.verify.calibration import Calibration, read_calibration, write_calibration
from pathflip.verify.judge import Judgement, Omission, Verification, verify_report
from pathflip.verify.page import slide_thumbnail, verification_view, write_verification

__all__ = [
    "Calibration",
    "Judgement",
    "Omission",
    "Verification",
    "read_calibration",
    "slide_thumbnail",
    "verification_view",
    "verify_report",
    "write_calibration",
    "write_verification",
]
