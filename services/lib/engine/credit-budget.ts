// The receiver's credit: one budget of bytes in flight over all its transfers, so that no number of senders can fill its memory or the
// server's buffer. Grants are cumulative positions per transfer. Pure.

interface Grant {
  total: number;
  granted: number;
  received: number;
}

const nobody: readonly string[] = [];
const leastStepFrames = 4;

export class CreditBudget {
  private readonly budgetBytes: number;
  private readonly transfers = new Map<string, Grant>();
  private outstanding = 0;

  constructor(budgetBytes: number) {
    this.budgetBytes = budgetBytes;
  }

  get outstandingBytes(): number {
    return this.outstanding;
  }

  /** A transfer of totalBytes begins. Call `distribute` for what it and the others may send. */
  open(id: string, totalBytes: number): void {
    this.transfers.set(id, { total: totalBytes, granted: 0, received: 0 });
  }

  received(id: string, bytes: number): void {
    const grant = this.transfers.get(id);
    if (!grant) return;
    grant.received += bytes;
    this.outstanding -= bytes;
  }

  close(id: string): void {
    const grant = this.transfers.get(id);
    if (!grant) return;
    this.outstanding -= grant.granted - grant.received;
    this.transfers.delete(id);
  }

  grantedBytes(id: string): number {
    return this.transfers.get(id)?.granted ?? 0;
  }

  /**
   * Raises grants so that the budget is shared evenly among transfers that still want to send; returns the ids whose grant changed. A grant
   * grows only by a quarter of its share, some frames at least, or to its total: credits are messages, and small ones would cost more than
   * they carry. No frame is larger than `frameBytes`.
   *
   * A sender whose credit ends within a frame cannot use the remainder. So that remainders never hold up all: one with less than a frame's
   * credit is raised to a frame where the budget has as much, and so it does for one of them, since no more transfers hold credit than there
   * are frames in the budget.
   */
  distribute(frameBytes: number): readonly string[] {
    let wanting = 0;
    let holding = 0;
    for (const { granted, total } of this.transfers.values()) {
      if (granted === total) continue;
      wanting++;
      if (granted > 0) holding++;
    }
    if (wanting === 0) return nobody;
    const leastStep = leastStepFrames * frameBytes;
    const share = Math.max(leastStep, Math.floor(this.budgetBytes / wanting));
    const step = Math.max(leastStep, Math.floor(share / 4));
    let changed: string[] | undefined;
    for (const [id, grant] of this.transfers) {
      const rest = grant.total - grant.granted;
      const inFlight = grant.granted - grant.received;
      const raise = Math.min(rest, share - inFlight, this.budgetBytes - this.outstanding);
      const least = Math.min(rest, inFlight < frameBytes ? frameBytes - inFlight : step);
      if (raise <= 0 || raise < least) continue;
      if (grant.granted === 0 && raise < rest) {
        if ((holding + 1) * frameBytes > this.budgetBytes) continue;
        holding++;
      }
      grant.granted += raise;
      this.outstanding += raise;
      changed ??= [];
      changed.push(id);
    }
    return changed ?? nobody;
  }
}
