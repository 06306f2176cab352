// A model as anywidget hands it to the view, without a kernel.
export class FakeModel {
  constructor(state, { onSend = () => {} } = {}) {
    this.state = state;
    this.sent = [];
    this.onSend = onSend;
    this.listeners = new Map();
  }

  get(name) {
    return this.state[name];
  }

  /** Several traits at once, as one message of the kernel brings them. */
  set(values) {
    Object.assign(this.state, values);
    for (const name of Object.keys(values)) this.emit(`change:${name}`);
  }

  emit(event, ...args) {
    for (const listener of [...(this.listeners.get(event) ?? [])]) listener(...args);
  }

  on(event, listener) {
    this.listeners.set(event, [...(this.listeners.get(event) ?? []), listener]);
  }

  off(event, listener) {
    const others = (this.listeners.get(event) ?? []).filter((known) => known !== listener);
    this.listeners.set(event, others);
  }

  send(message) {
    this.sent.push(message);
    this.onSend(message);
  }
}
