import { Button, Center, Loader } from "@mantine/core";
import { Component, lazy, type ReactNode, Suspense } from "react";
import { Link, Redirect, Route, Switch } from "wouter";
import { useSpeech } from "../i18n";
import { Empty, Page } from "./Page";

// Each page is a file of its own: the first one that is opened does not wait for the others.
const DatasetsPage = lazy(() => import("../datasets/DatasetsPage"));
const DatasetPage = lazy(() => import("../datasets/DatasetPage"));
const TrainingPage = lazy(() => import("../training/TrainingPage"));
const JobPage = lazy(() => import("../training/JobPage"));
const ModelsPage = lazy(() => import("../models/ModelsPage"));
const ModelPage = lazy(() => import("../models/ModelPage"));
const DrawingPage = lazy(() => import("../drawing/DrawingPage"));

export function Routes() {
  return (
    <Boundary>
      <Suspense fallback={<Waiting />}>
        <Switch>
          <Route path="/">
            <Redirect to="/datasets" replace />
          </Route>
          <Route path="/datasets" component={DatasetsPage} />
          <Route path="/datasets/:id">{({ id }) => <DatasetPage key={id} id={Number(id)} />}</Route>
          <Route path="/training" component={TrainingPage} />
          <Route path="/training/:id">{({ id }) => <JobPage key={id} id={id} />}</Route>
          <Route path="/text-to-image">
            <DrawingPage tab="draw" />
          </Route>
          <Route path="/text-to-image/compare">
            <DrawingPage tab="compare" />
          </Route>
          <Route path="/text-to-image/grid">
            <DrawingPage tab="grid" />
          </Route>
          <Route path="/models" component={ModelsPage} />
          <Route path="/models/:id">{({ id }) => <ModelPage key={id} id={Number(id)} />}</Route>
          <Route component={NotFound} />
        </Switch>
      </Suspense>
    </Boundary>
  );
}

function Waiting() {
  const { words } = useSpeech();
  return (
    <Center py={80}>
      <Loader role="status" aria-label={words.common.loading} />
    </Center>
  );
}

function NotFound() {
  const { words } = useSpeech();
  const home = (
    <Button component={Link} href="/datasets">
      {words.app.home}
    </Button>
  );
  return (
    <Page title={words.app.notFound}>
      <Empty title={words.app.notFoundHint} action={home} />
    </Page>
  );
}

/** A page whose file cannot be fetched (a new version was put in place, the network is away) says so. */
class Boundary extends Component<{ children: ReactNode }, { error: unknown }> {
  override state = { error: null as unknown };

  static getDerivedStateFromError(error: unknown) {
    return { error };
  }

  override render() {
    return this.state.error === null ? this.props.children : <Broken error={this.state.error} />;
  }
}

function Broken({ error }: { error: unknown }) {
  const { words } = useSpeech();
  const reload = <Button onClick={() => location.reload()}>{words.app.reload}</Button>;
  const hint = error instanceof Error ? error.message : undefined;
  return (
    <Page title={words.errors.unknown}>
      <Empty title={words.app.newVersion} hint={hint} action={reload} />
    </Page>
  );
}
