"""Classifiers of several classes: by words and numbers, judged by macro-F1 beside the most frequent and one input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from features.arrays import Floats, Int64s
from features.definitions import Classifier
from features.errors import UsageError
from models.event_model import ClassesScorer, EventModelColumns, EventScorer, FittedClasses, words_of
from training.data import ClassifierTrainingSettings, EventTrainingSettings, LabelledEvents, unusable
from training.event_model.kinds import EventKind
from training.event_model.metrics import EventModelResult, JudgedMetric, clusters_of
from training.evidence import Evidence
from training.judging import drawn_weights, interval_of, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MACRO_F1 = JudgedMetric("macro_f1", "macro-F1", "that of {}")

MOST_FREQUENT = "most_frequent"

STRENGTH = 1e-5
"""The weight of the penalty on weights."""

LEAVES = 8
"""The most parts that the baseline of one input divides it into."""


class ClassesKind(EventKind[Classifier]):
    """The training and the judgement of a classifier of several classes (see EventKind); its answers are classes."""

    settings = ClassifierTrainingSettings
    label = "class"

    def require(self, part: LabelledEvents) -> LabelledEvents:
        """See EventKind: events of at least two classes."""
        kept = part.where(part.positive)
        found = np.unique(codes_of_classes(kept))
        if len(found) < 2:  # noqa: PLR2004  # one class is nothing to tell apart
            raise unusable("events of at least two classes", f"{len(kept)} labelled events of {len(found)}")
        return kept

    def fitted(self, examples: LabelledEvents, columns: EventModelColumns, settings: EventTrainingSettings) -> Any:
        """See EventKind. Raises UsageError where no event is of the target."""
        from scipy.sparse import csr_array, hstack  # type: ignore[import-untyped]
        from sklearn.linear_model import SGDClassifier  # type: ignore[import-untyped]

        codes = codes_of_classes(examples)
        present = np.unique(codes)
        classes = tuple(examples.classes[code] for code in present.tolist())
        if self._model.target not in classes:
            got = ", ".join(classes)
            raise UsageError(f"training '{self._model.name}'", f"events of its target '{self._model.target}'", got)
        inputs = columns.inputs(examples.matrix)
        known = np.where(np.isfinite(inputs), inputs, np.nan)
        middle = np.nan_to_num(
            np.array([np.nanmean(column) if np.isfinite(column).any() else 0.0 for column in known.T])
        )
        width = np.array([np.nanstd(column) if np.isfinite(column).any() else 1.0 for column in known.T])
        width = np.where(width > 0, width, 1.0)
        scaled = np.where(np.isfinite(known), (known - middle) / width, 0.0)
        parts = [csr_array(scaled)] + ([] if examples.texts is None else [words_of(examples.texts)])
        fit = SGDClassifier(
            loss="log_loss",
            alpha=STRENGTH,
            class_weight="balanced",
            max_iter=settings.iterations,
            tol=None,
            random_state=settings.seed,
        ).fit(hstack(parts).tocsr(), codes)
        weights, offset = fit.coef_.T, fit.intercept_
        if len(present) == 2:  # noqa: PLR2004  # scikit-learn has one column for two classes
            weights, offset = np.column_stack([-weights, weights]), np.array([-offset[0], offset[0]])
        words = weights[scaled.shape[1] :]
        used = np.flatnonzero(np.abs(words).max(axis=1, initial=0.0)).astype(np.int64)
        numbers = np.ascontiguousarray(weights[: scaled.shape[1]])
        target = classes.index(self._model.target)
        return FittedClasses(classes, target, middle, width, numbers, used, words[used], offset)

    def answers(self, model: EventScorer, inputs: Floats, part: LabelledEvents, scores: Floats) -> Floats:
        """See EventKind: the code of each event's likeliest class; -1 of a class that the part has none of."""
        if not isinstance(model, ClassesScorer) or model.own:
            target = part.classes.index(self._model.target) if self._model.target in part.classes else -1
            return np.where(scores >= 0.5, target, -1).astype(np.float64)  # noqa: PLR2004  # more likely than not
        likeliest = np.argmax(model.fitted.probabilities(inputs, part.texts), axis=1)
        place = {name: code for code, name in enumerate(part.classes)}
        codes = np.array([place.get(name, -1) for name in model.fitted.classes], dtype=np.float64)
        return np.asarray(codes[likeliest], dtype=np.float64)

    def baselines(
        self, columns: EventModelColumns, test: LabelledEvents, learned: LabelledEvents | None
    ) -> Sequence[tuple[str, Floats, float | None]]:
        """See EventKind: the most frequent class, and the input that tells the classes apart best, by a small tree."""
        from sklearn.metrics import f1_score  # type: ignore[import-untyped]
        from sklearn.tree import DecisionTreeClassifier  # type: ignore[import-untyped]

        if learned is None:
            return []
        codes = codes_of_classes(learned)
        most = float(np.bincount(codes).argmax())
        before, now = (np.nan_to_num(columns.inputs(part.matrix), nan=0.0) for part in (learned, test))
        best, best_f1 = (MOST_FREQUENT, np.full(len(test), most)), -1.0
        for column, name in enumerate(columns.model.input_names):
            tree = DecisionTreeClassifier(max_leaf_nodes=LEAVES, class_weight="balanced", random_state=0)
            tree.fit(before[:, column : column + 1], codes)
            own = float(f1_score(codes, tree.predict(before[:, column : column + 1]), average="macro"))
            if own > best_f1:
                best, best_f1 = (name, tree.predict(now[:, column : column + 1]).astype(np.float64)), own
        return [(MOST_FREQUENT, np.full(len(test), most), None), (*best, None)]

    def judged(
        self,
        name: str,
        scores: Floats,
        test: LabelledEvents,
        settings: EventTrainingSettings,
        threshold: float | None = None,
    ) -> EventModelResult:
        """See EventKind: macro-F1 over the test's classes with its interval, and accuracy; ``scores`` are codes."""
        codes, said, cluster = codes_of_classes(test), scores.astype(np.int64), clusters_of(test.group)
        classes = np.unique(codes)
        parts = [
            (right, cluster) for one in classes for right in (codes == one, said == one, (codes == one) & (said == one))
        ]
        counts = np.column_stack([np.bincount(own, weights=mask) for mask, own in parts])
        draws = np.concatenate([_macro_f1(drawn @ counts) for drawn in drawn_weights(len(counts), settings.seed)])
        value = float(_macro_f1(counts.sum(axis=0, keepdims=True))[0])
        interval = interval_of(value, draws)
        metrics = {"macro_f1": value, "macro_f1_low": interval.low, "macro_f1_high": interval.high}
        metrics["accuracy"] = float(np.mean(codes == said))
        return EventModelResult(name, metrics, scores, draws, MACRO_F1)

    def evidence(self, test: LabelledEvents, settings: EventTrainingSettings) -> Sequence[Evidence]:
        """See EventKind: the events of each class, and the groups of the test."""
        codes = codes_of_classes(test)
        counts = [
            Evidence(
                f"events of '{test.classes[code]}' in the test",
                int((codes == code).sum()),
                settings.least_test_positives,
            )
            for code in np.unique(codes).tolist()
        ]
        return [*counts, Evidence("groups in the test", test.groups, settings.least_test_groups)]

    def labels(self, test: LabelledEvents) -> Any:
        """See EventKind: the classes."""
        return np.array([test.classes[code] for code in codes_of_classes(test).tolist()], dtype=object)

    def loss(self, scores: Floats, labels: Any) -> float:
        """See EventKind: the mean square of the score less whether an event is of the target."""
        return float(np.mean((scores - (labels == self._model.target)) ** 2))

    def pictures(self, rows: Sequence[EventModelResult], test: LabelledEvents, scores: Floats) -> dict[str, bytes]:
        """See EventKind."""
        said = next(row.scores for row in rows if row.model == "model").astype(np.int64)
        return {"confusion.png": png(lambda axes: _confusion(axes, codes_of_classes(test), said, test.classes))}


def codes_of_classes(examples: LabelledEvents) -> Int64s:
    """(n,) the code of each event's class, its place in ``examples.classes``."""
    value = np.empty(0) if examples.value is None else examples.value
    return value.astype(np.int64)


def _macro_f1(counts: Floats) -> Floats:
    """(draws,) the mean F1 over classes, by (draws, 3 · classes): of each the events that are, are said, and both."""
    are, said, both = (counts[:, part::3] for part in range(3))
    with np.errstate(invalid="ignore"):
        own = np.where(are > 0, 2 * both / (are + said), np.nan)
    return np.asarray(np.nanmean(own, axis=1))


def _confusion(axes: Axes, codes: Int64s, said: Int64s, classes: Sequence[str]) -> None:
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (codes[said >= 0], said[said >= 0]), 1)
    axes.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="class")
