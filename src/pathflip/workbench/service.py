"""What the workbench asks of a model: the one module here that knows it.

Everything goes through the library's public functions. The model is loaded beside the server, so that slides can be
looked at while it comes; what is asked before waits for it.
"""

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathflip.errors import CaptionError, CheckpointError, ConfigError, ContractError, FeatureError, PathFLIPError
from pathflip.geometry import Box
from pathflip.slide.resolution_table import SlideResolution
from pathflip.workbench.events import Events
from pathflip.workbench.lattice import answer_row
from pathflip.workbench.library import Library, SlideFile

if TYPE_CHECKING:
    from pathflip.assistant import LoadedAssistant
    from pathflip.inference import Aligned, EncodedSlide
    from pathflip.types import SlideFeatures
    from pathflip.verify import VerifierCalibration

__all__ = ["ModelService", "Models", "NotReadError", "feature_files"]

MOST_ENCODED = 24
"""Slides whose embeddings are kept in memory."""
MOST_PHRASE_CHARACTERS = 400
MOST_REPORT_CHARACTERS = 40_000
LOAD_TIMEOUT_S = 180.0


class NotReadError(FeatureError):
    """The model has not read this slide yet: there are no features of it."""


@dataclass(frozen=True)
class Models:
    """Where the models and features lie. ``assistant`` alone is enough: it holds a model."""

    model: Path | None = None
    assistant: Path | None = None
    features: tuple[Path, ...] = ()
    slide_mpp: SlideResolution | None = None
    language_model: str | None = None
    device: str | None = None


@dataclass(eq=False)
class _Loaded:
    aligned: "Aligned"
    calibration: "VerifierCalibration | None"
    assistant: "LoadedAssistant | None"


@dataclass(eq=False)
class _Encoded:
    """What is kept of a slide where nobody talks about it."""

    encoded: "EncodedSlide"


class ModelService:
    """A model, the slides it has read, and what can be asked of them. Thread-safe; one question at a time."""

    def __init__(self, models: Models, library: Library, events: Events) -> None:
        self._models = models
        self._library = library
        self._events = events
        self._ready = threading.Event()
        self._loaded: _Loaded | None = None
        self._failure = ""
        self._compute = threading.Lock()
        self._lock = threading.Lock()
        self._files = feature_files(models.features)
        self._views: OrderedDict[str, Any] = OrderedDict()
        self._reading: dict[str, dict[str, Any]] = {}
        self._reader = threading.Lock()
        _check_folders(models)

    # --- Loading ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Load the models in a thread of their own."""
        threading.Thread(target=self._load, name="pathflip-model", daemon=True).start()

    def _load(self) -> None:
        try:
            self._loaded = self._load_now()
        except PathFLIPError as error:
            self._failure = str(error)
        except Exception as error:  # a library's own: the slides must stay usable
            self._failure = f"the model could not be loaded ({type(error).__name__}: {error})"
        if self._failure:
            print(f"pathflip: {self._failure}", file=sys.stderr)  # noqa: T201
        self._ready.set()
        self._events.publish("model", **self.state())

    def _load_now(self) -> _Loaded:
        from pathflip.inference import load
        from pathflip.verify import read_verifier_calibration

        assistant = None
        if self._models.assistant is not None:
            from pathflip.assistant import load_assistant

            assistant = load_assistant(self._models.assistant, self._models.device, self._models.language_model)
        if self._models.model is not None:
            aligned = load(self._models.model, self._models.device)
        else:
            assert assistant is not None
            aligned = assistant.aligned
        folder = aligned.checkpoint.path or self._models.model
        calibration = None if folder is None else read_verifier_calibration(folder)
        return _Loaded(aligned, calibration, assistant)

    def _get(self) -> _Loaded:
        if not self._ready.wait(LOAD_TIMEOUT_S):
            raise CheckpointError("the model is still being loaded; ask again in a moment")
        if self._loaded is None:
            raise CheckpointError(self._failure)
        return self._loaded

    def state(self) -> dict[str, Any]:
        """What the page shows of the model: loading, ready or failed, and what it can do."""
        if not self._ready.is_set():
            return {"state": "loading", "talks": self._models.assistant is not None}
        if self._loaded is None:
            return {"state": "failed", "message": self._failure, "talks": False}
        loaded = self._loaded
        return {
            "state": "ready",
            "talks": loaded.assistant is not None,
            "calibrated": loaded.calibration is not None,
            "note": loaded.aligned.note,
        }

    @property
    def aligned(self) -> "Aligned":
        """The model, once loaded.

        Raises:
            CheckpointError: it could not be loaded.
        """
        return self._get().aligned

    @property
    def feature_files(self) -> dict[str, Path]:
        """Feature files by slide id."""
        return dict(self._files)

    # --- Reading slides -----------------------------------------------------------------------------------------------

    def reading(self, file: SlideFile) -> dict[str, Any]:
        """Whether the model has read a slide: ready, absent, running (done, total) or failed (message)."""
        with self._lock:
            if file.slide_id in self._files or file.key in self._views:
                return {"state": "ready"}
            return dict(self._reading.get(file.key, {"state": "absent"}))

    def read(self, file: SlideFile) -> dict[str, Any]:
        """Begin to read a slide with the model's encoder, unless that is done or under way."""
        with self._lock:
            known = file.slide_id in self._files or file.key in self._views
            running = self._reading.get(file.key, {}).get("state") == "running"
            if not known and not running:
                self._reading[file.key] = {"state": "running", "done": 0, "total": 0}
                threading.Thread(target=self._read_now, args=(file,), daemon=True).start()
        return self.reading(file)

    def _read_now(self, file: SlideFile) -> None:
        from pathflip.verify.slide_features import features_of_slide

        def tell(**progress: Any) -> None:
            with self._lock:
                self._reading[file.key] = progress
            self._events.publish("reading", slide=file.key, **progress)

        def advance(done: int, total: int) -> None:
            tell(state="running", done=done, total=total)

        try:
            with self._reader:  # slides one after the other
                file.check()
                loaded = self._get()
                features = features_of_slide(loaded.aligned, file.path, self._models.slide_mpp, progress=advance)
                self._keep(file, features)
        except PathFLIPError as error:
            tell(state="failed", message=str(error))
        except Exception as error:  # an encoder's own: said, not lost with the thread
            tell(state="failed", message=f"reading this slide failed ({type(error).__name__}: {error})")
        else:
            tell(state="ready")

    def _keep(self, file: SlideFile, features: "SlideFeatures") -> None:
        """Features go to the folder that was named for them; without one they last as long as the server."""
        from pathflip.features import write_features

        self._remember(file.key, self._view(features))
        folder = next((path for path in self._models.features if path.is_dir()), None)
        if folder is not None:
            target = folder / f"{features.slide_id}.h5"
            write_features(target, features)
            with self._lock:
                self._files[file.slide_id] = target

    def _remember(self, key: str, view: Any) -> None:
        with self._lock:
            self._views[key] = view
            self._views.move_to_end(key)
            while len(self._views) > MOST_ENCODED:
                del self._views[next((k for k in self._views if self._is_stored(k)), next(iter(self._views)))]

    def _is_stored(self, key: str) -> bool:
        file = self._library.files.get(key)
        return file is not None and file.slide_id in self._files

    def _view(self, features: "SlideFeatures") -> Any:
        """A slide encoded: for looking and, where there is an assistant, for talking."""
        loaded = self._get()
        if loaded.assistant is not None:
            from pathflip.assistant import prepare_slide

            return prepare_slide(loaded.aligned, features)
        from pathflip.inference import encode_slide

        return _Encoded(encode_slide(loaded.aligned, features))

    def view(self, file: SlideFile) -> Any:
        """The slide, encoded by the model.

        Raises:
            NotReadError: there are no features of it. ContractError, FeatureError: they do not fit model or slide.
        """
        with self._lock:
            if file.key in self._views:
                self._views.move_to_end(file.key)
                return self._views[file.key]
            path = self._files.get(file.slide_id)
        if path is None:
            raise NotReadError(f"slide '{file.slide_id}': the model has not read it yet")
        from pathflip.features import read_features

        self._get()
        with self._compute:
            features = read_features(path)
            with self._library.opened(file) as zoom:
                size0 = zoom.slide.info.size0
            if features.info.size0 != size0:
                raise ContractError(
                    f"'{path.name}': features of a slide of {features.info.size0} px, but this one has {size0} px; "
                    "name the folder of the features made on it"
                )
            view = self._view(features)
        self._remember(file.key, view)
        return view

    def encoded(self, file: SlideFile) -> "EncodedSlide":
        """The slide in the shared space; errors as of :meth:`view`."""
        encoded: EncodedSlide = self.view(file).encoded
        return encoded

    # --- Asking -------------------------------------------------------------------------------------------------------

    def where(self, file: SlideFile, text: str) -> dict[str, Any]:
        """Where on the slide is what the text speaks of: scores on the lattice of tiles, and the best places.

        Where every word is one the model never met, there is a note and no map: it would look like an answer.

        Raises:
            CaptionError: an empty or overlong text. NotReadError and others: see :meth:`view`.
        """
        from pathflip.inference import ground

        text = _checked_text(text, MOST_PHRASE_CHARACTERS, "phrase")
        loaded = self._get()
        encoded = self.encoded(file)
        notes, is_unknown = self._notes(loaded, text)
        if is_unknown:
            return {"text": text, "notes": notes, "unknown": True}
        with self._compute:
            heatmap = ground(loaded.aligned, encoded, text)
        return answer_row(heatmap, notes)

    def _notes(self, loaded: _Loaded, text: str) -> tuple[list[str], bool]:
        """What must be said of a phrase before its map is looked at, and whether no word of it is known."""
        from pathflip.archive.query_words import foreign_language
        from pathflip.text.known_words import content_words, unknown_fraction
        from pathflip.text.sub_captions import not_visual_kind, parse_sub_caption

        words = content_words(text)
        if loaded.calibration is not None:
            known = loaded.calibration.knowledge.lexicon.words
            missing = [word for word in words if unknown_fraction(word, known) == 1]
        else:
            missing = [word for word in words if _is_spelled_out(loaded.aligned, word)]
        language = foreign_language(text, 1 - len(missing) / max(1, len(words)))
        seems = f"This seems to be {language}; ask in the language of the reports the model was trained on."
        notes = [seems] if language else []
        if words and len(missing) == len(words):
            why = "" if language else " (another language, or another organ?)"
            unknown = f"The model knows none of these words{why}, so it cannot say where: {', '.join(missing)}"
            return [*notes, unknown], True
        if missing:
            notes.append(f"The model has not learned: {', '.join(missing)}. The map follows the other words.")
        if not parse_sub_caption(text).visual:
            kind = not_visual_kind(text)
            notes.append(f"Nothing a slide can show{f' ({kind})' if kind else ''}: the map means little.")
        return notes, False

    def check(self, file: SlideFile, report: str) -> dict[str, Any]:
        """Every sentence of a report against the slide; see :func:`pathflip.verify.verify_report`."""
        from pathflip.verify import verify_report

        report = _checked_text(report, MOST_REPORT_CHARACTERS, "report")
        loaded, encoded = self._get(), self.encoded(file)
        with self._compute:
            return verify_report(loaded.aligned, encoded, report, loaded.calibration).as_row()

    def talk(
        self,
        files: Sequence[SlideFile],
        question: str,
        history: Sequence[tuple[str, str]] = (),
        stream: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """An answer about slides of one case, or with an empty question a caption, with the places behind it.

        Raises:
            ConfigError: no assistant. Others: see :func:`pathflip.assistant.ask` and :meth:`view`.
        """
        from pathflip.assistant import ask, caption
        from pathflip.text.chat import Turn
        from pathflip.text.sentences import split_sentences

        loaded = self._get()
        if loaded.assistant is None:
            raise ConfigError("no assistant: start with  pathflip view … --assistant DIR")
        views = [self.view(file) for file in files]
        turns = [Turn("user" if who == "user" else "assistant", what) for who, what in history]
        with self._compute:
            if question.strip():
                question = _checked_text(question, MOST_REPORT_CHARACTERS, "question")
                answer = ask(loaded.assistant, question, views, history=turns, stream=stream)
            else:
                answer = caption(loaded.assistant, views, stream=stream)
        keys = {view.slide_id: file.key for view, file in zip(views, files, strict=True)}
        return {
            "text": answer.text,
            "sentences": [*split_sentences(answer.text), *([f"({answer.note})"] if answer.note else [])],
            "abstained": answer.abstained,
            "confidence": None if answer.confidence is None else round(answer.confidence, 3),
            "evidence": [
                {
                    **_box_row(place.box),
                    "score": round(place.score, 4),
                    "text": place.text,
                    "slide": keys.get(place.slide_id, files[0].key),
                }
                for place in answer.evidence
            ],
        }


def feature_files(paths: Sequence[Path]) -> dict[str, Path]:
    """Feature files by slide id; of two with one name the first. A case in front of the id (``case__slide``) is one way
    cohorts name them."""
    files: dict[str, Path] = {}
    for path in paths:
        for file in sorted(path.rglob("*.h5")) if path.is_dir() else [path]:
            if file.name.startswith(".") or (path.is_dir() and not file.resolve().is_relative_to(path.resolve())):
                continue  # hidden, or a link out of the folder named
            files.setdefault(file.stem, file)
            files.setdefault(file.stem.rpartition("__")[2], file)
    return files


def _is_spelled_out(model: "Aligned", word: str) -> bool:
    """Whether the tokenizer has no piece for a word but letters and scraps: it met it rarely or never."""
    backend = model.checkpoint.tokenizer.backend
    pieces = backend.encode(word, add_special_tokens=False).tokens
    return "[UNK]" in pieces or (len(pieces) > 2 and len(word) / len(pieces) < 3)


def _box_row(box: Box) -> dict[str, int]:
    return {"x": box.x, "y": box.y, "width": box.width, "height": box.height}


def _checked_text(text: str, most: int, what: str) -> str:
    text = text.strip()
    if not text:
        raise CaptionError(f"{what}: got nothing, expected words")
    if len(text) > most:
        raise CaptionError(f"{what}: got {len(text)} characters, expected at most {most}; shorten it")
    return text


def _check_folders(models: Models) -> None:
    for path, what in ((models.model, "--model"), (models.assistant, "--assistant")):
        if path is not None and not path.is_dir():
            raise ConfigError(
                f"{what} '{path}': no such folder; expected a checkpoint directory, such as runs/base/best"
            )
    for path in models.features:
        if not path.exists():
            raise ConfigError(f"--features '{path}': no such file or folder")
