"""Metrics agree with scikit-learn, and say what they leave out."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from federation.learning.downstream.metrics import evaluate
from kit.errors import KitError


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 6), levels=st.integers(2, 50))
def test_figures_equal_scikit_learn_with_ties(seed: int, classes: int, levels: int) -> None:
    draws = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), draws.integers(0, classes, 60)])
    scores = draws.integers(1, levels + 1, (len(labels), classes)).astype(np.float64)
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    found = evaluate(probabilities, labels)
    predicted = probabilities.argmax(axis=1)
    areas = [roc_auc_score(labels == c, probabilities[:, c]) for c in range(classes)]
    assert found.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found.auroc == pytest.approx(np.mean(areas))
    assert (found.auroc_classes, found.skipped_classes) == (classes, 0)


def test_a_class_absent_from_the_truth_is_skipped_and_counted() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]])
    found = evaluate(probabilities, np.array([0, 1, 1]))
    assert (found.auroc_classes, found.skipped_classes) == (2, 1)
    assert found.auroc == 1.0
    assert found.balanced_accuracy == 0.75


def test_one_class_alone_has_no_auroc() -> None:
    found = evaluate(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]))
    assert found.auroc is None
    assert found.accuracy == 0.5
    assert found.to_table()["auroc"] is None


def test_a_true_class_without_a_column_is_always_wrong() -> None:
    found = evaluate(np.array([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]), np.array([0, 1, -1]))
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.balanced_accuracy == pytest.approx(2 / 3)
    assert found.auroc == pytest.approx((1.0 + 0.75) / 2)


@pytest.mark.parametrize("fault", ["empty", "shape", "label", "nan"])
def test_what_cannot_be_compared_is_refused(fault: str) -> None:
    probabilities, labels = np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 1])
    assert evaluate(probabilities, labels).images == 2
    broken = {
        "empty": (probabilities[:0], labels[:0]),
        "shape": (probabilities, labels[:1]),
        "label": (probabilities, labels + 1),
        "nan": (probabilities * np.nan, labels),
    }
    with pytest.raises(KitError):
        evaluate(*broken[fault])


def test_metrics_load_no_torch() -> None:
    program = (
        "import sys, federation.learning.downstream.metrics as m; print('torch' in sys.modules)"
    )
    control = program.replace("downstream.metrics", "downstream.train")
    loaded = [
        subprocess.run([sys.executable, "-c", p], capture_output=True, text=True, check=True).stdout
        for p in (program, control)
    ]
    assert [text.strip() for text in loaded] == ["False", "True"]
