// The receiver's credit: one budget of bytes in flight over all its transfers, so that no number of senders can fill its memory or the
// server's buffer. Grants are cumulative positions per transfer. Pure.

interface Grant {
  total: number;
  granted: number;
  received: number;
}

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
   * grows only by `stepBytes` or to its total: credits are messages, and small ones would cost more than they carry.
   */
  distribute(stepBytes: number): string[] {
    const wanting = [...this.transfers].filter(([, grant]) => grant.granted < grant.total);
    const share = Math.max(stepBytes, Math.floor(this.budgetBytes / Math.max(1, wanting.length)));
    const changed: string[] = [];
    for (const [id, grant] of wanting) {
      const inFlight = grant.granted - grant.received;
      const raise = Math.min(grant.total - grant.granted, share - inFlight, this.budgetBytes - this.outstanding);
      if (raise <= 0 || (raise < stepBytes && grant.granted + raise < grant.total)) continue;
      grant.granted += raise;
      this.outstanding += raise;
      changed.push(id);
    }
    return changed;
  }
}
