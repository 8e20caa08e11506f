// Where the eye is: { eye: [3], rows: world to camera as 9 numbers (right, down, ahead), distance: to what it turns around }.

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const plus = (a, b, times = 1) => [a[0] + times * b[0], a[1] + times * b[1], a[2] + times * b[2]];
const row = (pose, i) => pose.rows.slice(3 * i, 3 * i + 3);
const shiftOf = (pose) => [0, 1, 2].map((i) => -dot(row(pose, i), pose.eye));
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => a.map((value) => value / Math.hypot(...a));

// Rodrigues' formula.
function around(vector, axis, angle) {
  const c = Math.cos(angle), s = Math.sin(angle);
  return plus(plus(vector.map((value) => c * value), cross(axis, vector), s), axis, (1 - c) * dot(axis, vector));
}

function poseOf(camera, target) {
  const rows = camera.rotation.slice(), eye = camera.position.slice();
  const ahead = dot(rows.slice(6, 9), plus(target, eye, -1));
  return { eye, rows, distance: Math.max(ahead, 1e-3 * Math.hypot(...plus(target, eye, -1)), 1e-6) };
}

// Turns the view about `axis` through `pivot`; rounding is taken out again.
function turnAbout(pose, axis, angle, pivot) {
  const ahead = unit(around(row(pose, 2), axis, angle));
  let right = around(row(pose, 0), axis, angle);
  right = unit(plus(right, ahead, -dot(right, ahead)));
  const down = cross(ahead, right);
  return { ...pose, eye: plus(pivot, around(plus(pose.eye, pivot, -1), axis, angle)), rows: [...right, ...down, ...ahead] };
}

const pivotOf = (pose) => plus(pose.eye, row(pose, 2), pose.distance);

// Yaw about the scene's up, then pitch towards it; never over the top.
function orbit(pose, yaw, pitch, up, pivot) {
  pose = turnAbout(pose, up, yaw, pivot);
  const ahead = row(pose, 2), side = cross(ahead, up);
  const angle = Math.acos(Math.max(-1, Math.min(1, dot(ahead, up))));
  const bounded = Math.max(Math.min(pitch, angle - .03), angle - Math.PI + .03);
  return turnAbout(pose, Math.hypot(...side) > 1e-6 ? unit(side) : row(pose, 0), bounded, pivot);
}

function moved(pose, right, down, ahead) {
  let eye = plus(pose.eye, row(pose, 0), right);
  eye = plus(eye, row(pose, 1), down);
  return { ...pose, eye: plus(eye, row(pose, 2), ahead) };
}

function nearer(pose, factor) {
  return { ...moved(pose, 0, 0, pose.distance * (1 - factor)), distance: pose.distance * factor };
}

// The whole picture of the camera inside the canvas, as large as it gets.
function lensOf(camera, width, height) {
  const fit = Math.min(width / camera.width, height / camera.height);
  return [
    camera.fx * fit, camera.fy * fit,
    width / 2 + (camera.cx - camera.width / 2) * fit, height / 2 + (camera.cy - camera.height / 2) * fit,
  ];
}

// Fingers, mouse and keys; calls `change(pose => pose)` for what they ask for.
class Hands {
  constructor(canvas, up, change) {
    this.canvas = canvas;
    this.up = up;
    this.change = change;
    this.pointers = new Map();
    this.keys = new Set();
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      canvas.addEventListener(end, (event) => this.lift(event));
    }
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    addEventListener("keydown", (event) => this.key(event, true));
    addEventListener("keyup", (event) => this.key(event, false));
    addEventListener("blur", () => this.keys.clear());
  }

  down(event) {
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.canvas.classList.add("held");
    const shifting = event.button === 1 || event.button === 2 || event.shiftKey || event.ctrlKey;
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, shifting });
    event.preventDefault();
  }

  lift(event) {
    this.pointers.delete(event.pointerId);
    if (!this.pointers.size) this.canvas.classList.remove("held");
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const x = event.clientX - before.x, y = event.clientY - before.y, short = Math.min(innerWidth, innerHeight);
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    if (others.length) {
      const gap = (point) => Math.hypot(point.x - others[0].x, point.y - others[0].y) || 1;
      const factor = gap(before) / gap({ x: event.clientX, y: event.clientY });
      this.change((pose) => nearer(this.shifted(pose, x / 2, y / 2), factor));
    } else if (before.shifting) this.change((pose) => this.shifted(pose, x, y));
    else this.change((pose) => orbit(pose, -4 * x / short, -4 * y / short, this.up, pivotOf(pose)));
    before.x = event.clientX;
    before.y = event.clientY;
  }

  // What is as far away as the pivot stays under the finger.
  shifted(pose, x, y) {
    const each = pose.distance / this.pixels;
    return moved(pose, -x * each, -y * each, 0);
  }

  wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode ? 30 : 1;
    this.change((pose) => nearer(pose, Math.exp(Math.max(-1, Math.min(1, .0015 * lines * event.deltaY)))));
  }

  key(event, held) {
    if (event.target.tagName === "INPUT" && event.code.startsWith("Arrow")) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    this.fast = event.shiftKey;
    const flies = /^(Key[WASDQE]|Arrow(Left|Right|Up|Down)|Comma|Period)$/.test(event.code);
    if (!flies) return;
    if (held) this.keys.add(event.code);
    else this.keys.delete(event.code);
    event.preventDefault();
  }

  // What the held keys do in `seconds`; `speed` in world units a second.
  fly(seconds, speed) {
    if (!this.keys.size) return;
    const of = (plus, minus) => (this.keys.has(plus) ? 1 : 0) - (this.keys.has(minus) ? 1 : 0);
    const far = seconds * speed * (this.fast ? 4 : 1), angle = 1.2 * seconds;
    this.change((pose) => {
      pose = moved(pose, far * of("KeyD", "KeyA"), far * of("KeyQ", "KeyE"), far * of("KeyW", "KeyS"));
      pose = turnAbout(pose, row(pose, 2), angle * of("Period", "Comma"), pose.eye);
      const yaw = angle * of("ArrowLeft", "ArrowRight"), pitch = angle * of("ArrowUp", "ArrowDown");
      return yaw || pitch ? orbit(pose, yaw, pitch, this.up, pose.eye) : pose;
    });
  }
}
