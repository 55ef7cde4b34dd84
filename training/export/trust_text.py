"""Say in words what a model's section `trust` has."""

from contract.trust import Share, Trust


def trust_lines(trust: Trust) -> list[str]:
    """Format a line for each measurement."""
    lines = [
        f"temperature {trust.temperature:.3f}: expected calibration error {_share(trust.ece_before)} "
        f"before, {_share(trust.ece)} now ({trust.photographs:,} photographs, {trust.method})"
    ]
    lines += [
        f"{100 * result.coverage:.0f} % sets: {_share(result.achieved)} have the class, "
        f"{result.mean_size:.2f} labels on average"
        for result in trust.sets
    ]
    if trust.familiarity is None:
        return lines
    familiarity = trust.familiarity
    lines.append(
        f"known: {_share(familiarity.known)} of the photographs, up to an unfamiliarity of "
        f"{familiarity.unknown_above:g} ({familiarity.references:,} references, "
        f"{familiarity.background:,} background pictures)"
    )
    lines += [
        f"unfamiliar, {result.data} ({result.images:,}): AUROC {result.auroc:.3f}, "
        f"{100 * result.fpr95:.1f} % below where 95 % of the photographs are, "
        f"{100 * result.known_and_probable:.1f} % known and above 50 %"
        for result in familiarity.unfamiliar
    ]
    return lines


def trust_failures(recorded: Trust | None, measured: Trust | None) -> list[str]:
    """Compare a section with the measurement of now -> a line for each figure that does not hold.

    Two photographs may turn out differently, as on another processor.
    """
    if recorded is None or measured is None:
        return []
    slack = 2 / measured.photographs
    pairs = [
        # The optimum is flat: half a hundredth of the loss lies within a tenth of the temperature.
        ("temperature", recorded.temperature, measured.temperature, 0.1 * recorded.temperature),
        ("calibration error before", recorded.ece_before.value, measured.ece_before.value, 0.01 + slack),
        ("calibration error", recorded.ece.value, measured.ece.value, 0.01 + slack),
    ]
    for old, new in zip(recorded.sets, measured.sets, strict=False):
        name = f"{100 * old.coverage:.0f} % sets"
        pairs.append((f"coverage of the {name}", old.achieved.value, new.achieved.value, 2 * slack))
        pairs.append(
            (f"mean size of the {name}", old.mean_size, new.mean_size, 0.1 * old.mean_size + slack)
        )
    if recorded.familiarity is not None and measured.familiarity is not None:
        known, now = recorded.familiarity.known.value, measured.familiarity.known.value
        pairs.append(("share of known photographs", known, now, 2 * slack))
        again = {result.data: result for result in measured.familiarity.unfamiliar}
        pairs += [
            (f"AUROC against {result.data}", result.auroc, again[result.data].auroc, 0.01)
            for result in recorded.familiarity.unfamiliar
            if result.data in again
        ]
    return [
        f"{name} is {now:.3f}, the manifest has {before:.3f}"
        for name, before, now, allowed in pairs
        if not abs(now - before) <= allowed
    ]


def _share(share: Share) -> str:
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"
