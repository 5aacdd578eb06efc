// What the buttons of a job do.

import { post } from "./api.js";
import { confirm } from "./dialogs.js";
import { attempt } from "./presets.js";

const SURE = {
  abort: ["Abort the run", "It ends at once and writes no LoRA. What was saved before stays.", "Abort"],
  remove: [
    "Remove the job",
    "Its log, its previews and its saved state are deleted. The files that it has written stay.",
    "Remove",
  ],
};

/** Do it, after a question where that cannot be undone, and look at once at what came of it. */
export async function act(live, job, action, body) {
  const nothingYet = action === "remove" && job.status === "queued";
  if (SURE[action] && !nothingYet) {
    const [title, question, yes] = SURE[action];
    if (!(await confirm(title, `${job.name}: ${question}`, yes))) return null;
  }
  const answer = await attempt(() => post(`jobs/${encodeURIComponent(job.id)}/${action}`, body));
  await live.renew();
  return answer;
}
