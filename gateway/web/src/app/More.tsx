import { Button, Center } from "@mantine/core";
import { useSpeech } from "../i18n";

/** What a list's next page needs of its query. */
export interface Paged {
  hasNextPage: boolean;
  isFetchingNextPage: boolean;
  fetchNextPage: () => unknown;
}

/** The button for a list's next page, where there is one. */
export function More({ list, mt }: { list: Paged; mt?: "md" }) {
  const { words } = useSpeech();
  if (!list.hasNextPage) return null;
  return (
    <Center mt={mt}>
      <Button variant="default" loading={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>
        {words.common.more}
      </Button>
    </Center>
  );
}
