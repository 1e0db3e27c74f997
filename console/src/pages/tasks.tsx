import { PageHead } from "../parts/Page.tsx";

export default function Tasks() {
  return <PageHead title="Tasks" />;
}
