"""What the tools of `shared/tools` say about a set; run by the Python of the peers' environment.

    python registration_judge.py TOOLS points SET points.npz
    python registration_judge.py TOOLS artefacts SET artefacts.npz
    python registration_judge.py TOOLS drift SET drift.npz
    python registration_judge.py TOOLS score SET mapped.npz

The scorer asks a solution where points lie. The points depend on the truth alone, so they are written down
first (`points`: for each question the tile or section, and x, y), the system under test answers them in a
process of its own (`mapped.npz`, same order), and `score` replays the answers. So no system needs the tools,
and all are asked exactly the same. `drift` measures how the raw slices of A3 move by themselves
(`registration_drift.py`); where its file lies in the set, scores beyond that motion are added.
"""

import json
import sys
from pathlib import Path

import numpy as np

WRONG_SEAM_PX = 3.0
"""A kept pair of tiles whose seam is off by more, on average, counts as wrong."""
WRONG_MATCH_PX = 8.0
"""A kept pair of sections is wrong if its matches are off by more, by the median, for each step between them.

The tissue of A3 moves by itself: 2 to 3 px from section to section, 6 px across the missing one.
"""


class Record:
    """Stands in for a solution and notes what it is asked."""

    def __init__(self):
        self.index, self.length, self.points = [], [], []

    def __call__(self, index, points_xy):
        self.index.append(index)
        self.length.append(len(points_xy))
        self.points.append(np.array(points_xy, dtype=np.float64))
        return np.array(points_xy, dtype=np.float64)


class Replay:
    """Gives the answers that a system wrote down, in order."""

    def __init__(self, asked, mapped_xy):
        self.index, self.answers = asked.index, np.split(mapped_xy, np.cumsum(asked.length)[:-1])
        self.next = 0

    def __call__(self, index, points_xy):
        answer = self.answers[self.next]
        assert index == self.index[self.next], (index, self.index[self.next])
        assert len(answer) == len(points_xy), (len(answer), len(points_xy))
        self.next += 1
        return answer


def ask(score, truth, folder):
    """The questions of the scorer."""
    asked = Record()
    (score.eval_stitch if "pos_true" in truth else score.eval_align)(str(folder), asked)
    return asked


def artefacts(sets, truth):
    """What each section shows (N, Y, X): 0 tissue, 1 its fold, 2 its crack."""
    grid = np.mgrid[: truth["canvas"], : truth["canvas"]][::-1].astype(float)
    codes = [np.where(sets.sec_T(truth, k, grid)[1], 0, kind) for k, kind in enumerate(truth["kind"])]
    return np.stack(codes).astype(np.uint8)


def wrong_seams(answers, tiles, kept):
    """Kept pairs of tiles whose seam is off by more than `WRONG_SEAM_PX` on average, resin included.

    The scorer asks for all tiles first, then twice for each pair side by side.
    """
    found = []
    for k in range(tiles, len(answers.index), 2):
        pair = (int(answers.index[k]), int(answers.index[k + 1]))
        off = np.linalg.norm(answers.answers[k] - answers.answers[k + 1], axis=1)
        if pair in kept and len(off) and not float(np.mean(off)) <= WRONG_SEAM_PX:
            found.append([*pair, round(float(np.mean(off)), 2)])
    return found


def wrong_matches(sets, truth, matches):
    """Kept pairs of sections whose matches (x, y in a, x, y in b) are off by more than they may be."""
    found = []
    for name, rows in matches.items():
        a, b = map(int, name.split("-"))
        off = sets.sec_T(truth, a, rows[:, :2].T)[0] - sets.sec_T(truth, b, rows[:, 2:].T)[0]
        median = float(np.median(np.linalg.norm(off, axis=0)))
        if not median <= WRONG_MATCH_PX * abs(b - a):
            found.append([a, b, round(median, 2)])
    return found


def grid(truth):
    """The points of the scene (P, 2) that the scorer asks for, x, y."""
    line = np.arange(80, truth["scene"] - 80, 16, dtype=float)
    return np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)


def drift(sets, truth, folder):
    """How the tissue of a set moves by itself at the points of the scorer."""
    import registration_drift
    from PIL import Image

    raw = registration_drift.raw_slices(sets, truth)
    first = sorted((folder / "sections").glob("*.png"))[0]
    registration_drift.check(sets, truth, raw, np.asarray(Image.open(first)))
    steps, loop_px = registration_drift.measure(raw, grid(truth))
    return {"steps": steps, "loop_px": loop_px}


def beyond_drift(sets, truth, answers, steps):
    """Scores of an alignment without what the tissue does by itself."""
    import registration_drift

    points = grid(truth)
    placed = np.full((len(truth["z"]), *points.shape), np.nan)
    for k in range(len(placed)):
        known = np.isfinite(sets.sec_Tinv(truth, k, points.T)).all(axis=0)
        if int(known.sum()) != len(answers.answers[k]):
            raise SystemExit(f"section {k}: the scorer asked for other points")
        placed[k, known] = answers.answers[k]
    return registration_drift.beyond(placed, points, steps, truth["kind"])


def raw_drift(archive):
    """What the raw slices do by themselves."""
    import registration_drift

    return registration_drift.figures(archive["steps"], float(archive["loop_px"]))


def judge(score, sets, truth, folder, mapped):
    """The scorer's figures, and which kept pairs are wrong."""
    asked = ask(score, truth, folder)
    with np.load(mapped) as archive:
        arrays = dict(archive)
    answers = Replay(asked, arrays.pop("mapped_xy"))
    if "pos_true" in truth:
        figures = score.eval_stitch(str(folder), answers)
        kept = {(int(min(a, b)), int(max(a, b))) for a, b in arrays["kept"]}
        figures["pairs_kept"] = len(kept)
        figures["wrong"] = wrong_seams(answers, truth["n"] ** 2, kept)
    else:
        figures = score.eval_align(str(folder), answers)
        matches = {name.removeprefix("pair "): rows for name, rows in arrays.items() if "pair " in name}
        figures["pairs_kept"] = len(matches)
        figures["wrong"] = wrong_matches(sets, truth, matches)
        if (folder / "drift.npz").exists():
            with np.load(folder / "drift.npz") as archive:
                figures["beyond"] = beyond_drift(sets, truth, answers, archive["steps"])
                figures["raw_drift"] = raw_drift(archive)
        figures["missing"] = int(sum(not np.isfinite(a).all(axis=1).any() for a in answers.answers))
    return figures


def main():
    """Do what the arguments say."""
    tools, what, folder, file = sys.argv[1:]
    sys.path.insert(0, tools)
    import registration_score as score
    import registration_sets as sets

    truth = sets.load(folder)
    if what == "points":
        asked = ask(score, truth, Path(folder))
        np.savez(file, index=asked.index, length=asked.length, points_xy=np.concatenate(asked.points))
    elif what == "drift":
        np.savez_compressed(file, **drift(sets, truth, Path(folder)))
    elif what == "artefacts":
        np.savez_compressed(file, artefacts=artefacts(sets, truth))
    else:
        print(json.dumps(judge(score, sets, truth, Path(folder), Path(file))))


if __name__ == "__main__":
    main()
