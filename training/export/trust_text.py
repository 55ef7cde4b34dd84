"""Say in words what a model's section `trust` has."""

from contract.trust import Share, Trust


def trust_lines(trust: Trust) -> list[str]:
    """Format a line for each measurement."""
    lines = [
        f"temperature {trust.temperature:.3f}: expected calibration error {_share(trust.ece_before)} "
        f"before, {_share(trust.ece)} now ({trust.photographs:,} photographs, {trust.method})"
    ]
    lines += [
        f"{result.coverage:.0%} sets: {_share(result.achieved)} have the class, "
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
        f"{result.fpr95:.1%} below where 95 % of the photographs are, "
        f"{result.known_and_probable:.1%} known and above 50 %"
        for result in familiarity.unfamiliar
    ]
    return lines


def _share(share: Share) -> str:
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"
