"""Reports against slides: each sentence judged with a calibrated probability and its place; what is left out, named."""

from pathflip.verify.calibration import VerifierCalibration, read_verifier_calibration, write_verifier_calibration
from pathflip.verify.composed_captions import AT_LEAST, CaptionComposer, ComposedCaption, ComposedSentence
from pathflip.verify.judge import Judgement, Omission, Verification, verify_report
from pathflip.verify.report_page import slide_thumbnail, verification_view, write_verification
from pathflip.verify.sentence_bank import (
    SentenceBank,
    bank_row,
    collect_sentences,
    read_sentence_bank,
    write_sentence_bank,
)

__all__ = [
    "AT_LEAST",
    "CaptionComposer",
    "ComposedCaption",
    "ComposedSentence",
    "Judgement",
    "Omission",
    "SentenceBank",
    "Verification",
    "VerifierCalibration",
    "bank_row",
    "collect_sentences",
    "read_sentence_bank",
    "read_verifier_calibration",
    "slide_thumbnail",
    "verification_view",
    "verify_report",
    "write_sentence_bank",
    "write_verification",
    "write_verifier_calibration",
]
