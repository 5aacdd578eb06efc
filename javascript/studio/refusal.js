// What the server refuses of a form while it is being filled in.

export class Refusal {
  /**
   * @param {import("./form.js").Form} form
   * @param {(error: Object | null) => void} general shows an error that has no field on the page
   */
  constructor(form, general) {
    Object.assign(this, { form, general, shown: null });
  }

  /** Show it at its field; but nobody is told off for a form that is still empty. */
  show(error) {
    const field = error && (error.field || "the form");
    // Of an earlier answer alone: what Start was refused for stays until its field is changed.
    if (this.shown && this.shown !== field) {
      if (this.form.has(this.shown)) this.form.clearError(this.shown);
      else this.general(null);
    }
    this.shown = field;
    if (!error) return;
    if (this.form.isChanged(error.field) || this.form.values[error.field]) this.form.showError(error, { focus: false });
    else if (!this.form.has(error.field)) this.general(error);
  }
}
