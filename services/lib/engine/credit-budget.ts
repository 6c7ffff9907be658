// The receiver's credit: one budget of bytes in flight over all its transfers, so that no number of senders can fill its memory or the
// server's buffer. Grants are cumulative positions per transfer. Pure.

interface Grant {
  total: number;
  granted: number;
  received: number;
}

const nobody: readonly string[] = [];

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
   * grows only by a quarter of its share, `stepBytes` at least, or to its total: credits are messages, and small ones would cost more than
   * they carry.
   */
  distribute(stepBytes: number): readonly string[] {
    let wanting = 0;
    for (const grant of this.transfers.values()) if (grant.granted < grant.total) wanting++;
    if (wanting === 0) return nobody;
    const share = Math.max(stepBytes, Math.floor(this.budgetBytes / wanting));
    const step = Math.max(stepBytes, Math.floor(share / 4));
    let changed: string[] | undefined;
    for (const [id, grant] of this.transfers) {
      const inFlight = grant.granted - grant.received;
      const raise = Math.min(grant.total - grant.granted, share - inFlight, this.budgetBytes - this.outstanding);
      if (raise <= 0 || (raise < step && grant.granted + raise < grant.total)) continue;
      grant.granted += raise;
      this.outstanding += raise;
      changed ??= [];
      changed.push(id);
    }
    return changed ?? nobody;
  }
}
