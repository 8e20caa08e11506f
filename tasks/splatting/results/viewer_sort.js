// From far to near: in a worker where the page may have one, else in slices between two frames.

// Writes the numbers of the Gaussians in front of the camera into `order`, farthest first, and returns how many. Exact:
// the bits of a positive float sort as whole numbers do, so two passes over 16 bits each do it. Yields now and then.
function* sorting(points, axis, near, order, room) {
  const n = points.length / 3, chunk = 1 << 16;
  const { keys, keys2, order2, low, high } = room;
  const depth = new Float32Array(1), bits = new Uint32Array(depth.buffer);
  low.fill(0);
  high.fill(0);
  let found = 0;
  for (let i = 0; i < n; i++) {
    if (i % chunk === chunk - 1) yield;
    depth[0] = axis[0] * points[3 * i] + axis[1] * points[3 * i + 1] + axis[2] * points[3 * i + 2] + axis[3];
    if (!(depth[0] > near)) continue;
    const key = ~bits[0] >>> 0;
    keys[found] = key;
    order[found++] = i;
    low[key & 65535]++;
    high[key >>> 16]++;
  }
  for (let bucket = 0, a = 0, b = 0; bucket < 65536; bucket++) {
    const lows = low[bucket], highs = high[bucket];
    low[bucket] = a;
    high[bucket] = b;
    a += lows;
    b += highs;
  }
  for (let i = 0; i < found; i++) {
    if (i % chunk === chunk - 1) yield;
    const to = low[keys[i] & 65535]++;
    keys2[to] = keys[i];
    order2[to] = order[i];
  }
  for (let i = 0; i < found; i++) {
    if (i % chunk === chunk - 1) yield;
    order[high[keys2[i] >>> 16]++] = order2[i];
  }
  return found;
}

function sortingRoom(n) {
  return {
    keys: new Uint32Array(n), keys2: new Uint32Array(n), order2: new Uint32Array(n),
    low: new Uint32Array(65536), high: new Uint32Array(65536),
  };
}

function workerMain() {
  let points, room;
  onmessage = (event) => {
    if (event.data.points) {
      points = event.data.points;
      room = sortingRoom(points.length / 3);
      postMessage({ ready: true });
      return;
    }
    const order = event.data.order, steps = sorting(points, event.data.axis, event.data.near, order, room);
    let step = steps.next();
    while (!step.done) step = steps.next();
    postMessage({ order, found: step.value, axis: event.data.axis }, [order.buffer]);
  };
}

// Calls `done(order, found, axis)` after each `ask(axis)`; a newer question replaces one that waits.
class Sorter {
  constructor(points, near, done) {
    this.points = points;
    this.near = near;
    this.done = done;
    this.n = points.length / 3;
    this.spare = [new Uint32Array(this.n), new Uint32Array(this.n)];
    this.busy = false;
    this.waiting = null;
    this.kind = "main thread";
    this.startWorker();
  }

  // A frame without an origin of its own may be refused a worker, at once or by an event: until it has answered, and
  // for good when it does not, the page sorts by itself.
  startWorker() {
    try {
      const code = `${sorting}\n${sortingRoom}\n(${workerMain})();`;
      const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
      const worker = new Worker(url);
      worker.onerror = (event) => {
        event.preventDefault();
        worker.terminate();
        if (this.worker === worker) this.forsake();
      };
      worker.onmessage = (event) => {
        if (event.data.ready) {
          URL.revokeObjectURL(url);
          this.worker = worker;
          this.kind = "worker";
        } else this.finish(event.data.order, event.data.found, event.data.axis);
      };
      worker.postMessage({ points: this.points });
    } catch (refused) {
      this.worker = null;
    }
  }

  forsake() {
    this.worker = null;
    this.kind = "main thread";
    this.spare = [new Uint32Array(this.n), new Uint32Array(this.n)];
    const again = this.waiting || this.asked;
    this.busy = false;
    this.waiting = null;
    if (again) this.ask(again);
  }

  ask(axis) {
    if (this.busy) {
      this.waiting = axis;
      return;
    }
    this.busy = true;
    this.asked = axis;
    const order = this.spare.pop() || new Uint32Array(this.n);
    if (this.worker) this.worker.postMessage({ axis, near: this.near, order }, [order.buffer]);
    else this.inSlices(axis, order);
  }

  inSlices(axis, order) {
    this.room = this.room || sortingRoom(this.n);
    const steps = sorting(this.points, axis, this.near, order, this.room);
    const slice = () => {
      const end = performance.now() + 8;
      let step = steps.next();
      while (!step.done && performance.now() < end) step = steps.next();
      if (step.done) this.finish(order, step.value, axis);
      else setTimeout(slice, 0);
    };
    slice();
  }

  finish(order, found, axis) {
    this.busy = false;
    this.done(order, found, axis);
    this.spare.push(order);
    const next = this.waiting;
    this.waiting = null;
    if (next) this.ask(next);
  }
}
