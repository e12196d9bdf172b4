"""Reports against slides: each sentence judged with a calibrated probability and its place; what is left out, named."""

from pathflip.verify.calibration import VerifierCalibration, read_verifier_calibration, write_verifier_calibration
from pathflip.verify.judge import Judgement, Omission, Verification, verify_report
from pathflip.verify.report_page import slide_thumbnail, verification_view, write_verification

__all__ = [
    "Judgement",
    "Omission",
    "Verification",
    "VerifierCalibration",
    "read_verifier_calibration",
    "slide_thumbnail",
    "verification_view",
    "verify_report",
    "write_verification",
    "write_verifier_calibration",
]
