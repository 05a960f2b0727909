defmodule SangoWeb.SocketTest do
  @moduledoc "The channel socket, frame by frame."

  use ExUnit.Case

  import SangoWeb.Frames
  import SangoWeb.Jobs

  setup do: open()

  defp follow(topic, events \\ []) do
    [_, nil, ^topic, event, payload] = until(&match?([_, _, ^topic, event, _] when event != "phx_close", &1))
    assert payload["event"] == event
    events = [payload | events]
    if event in ["finished", "failed", "cancelled"], do: Enum.reverse(events), else: follow(topic, events)
  end

  defp numbers(events), do: Enum.map(events, & &1["n"])

  test "submit, watch and follow" do
    assert ask(nil, "phoenix", "heartbeat", %{}) == {"ok", %{}}
    {studio, "ok", %{"jobs" => _, "models" => [%{"default" => true} | _]}} = join("studio", %{})
    {"ok", %{"id" => id}} = ask(studio, "studio", "submit", fresh())
    topic = "job:" <> id
    {_, "ok", %{"job" => %{"id" => ^id}}} = join(topic, %{"after" => 0})
    events = follow(topic)
    assert numbers(events) == Enum.to_list(1..length(events))
    steps = for %{"event" => "progress", "data" => %{"step" => step}} <- events, do: step
    assert steps == Enum.to_list(1..12)
    # The studio topic has told of it, too; its last word is the finished job.
    [^studio, nil, "studio", "job", %{"id" => ^id}] =
      until(&match?([_, _, "studio", "job", %{"id" => ^id, "state" => "finished"}], &1))

    assert {"ok", %{"jobs" => [%{"id" => ^id}]}} =
             ask(studio, "studio", "list", %{"limit" => 1, "state" => "finished"})
  end

  test "a client that comes back misses and repeats nothing" do
    %{"id" => id, "last_event" => last} = drawn()

    for n <- [0, 3, last - 1] do
      {_, "ok", %{"job" => %{"state" => "finished"}}} = join("job:" <> id, %{"after" => n})
      assert numbers(follow("job:" <> id)) == Enum.to_list((n + 1)..last)
    end

    # Silent from here on, and still joined.
    {ref, "ok", _} = join("job:" <> id, %{"after" => last})
    assert {"ok", %{"state" => "finished"}} = ask(ref, "job:" <> id, "cancel", %{})
  end

  test "cancelling" do
    %{"id" => id} = submit_long()
    topic = "job:" <> id
    {ref, "ok", _} = join(topic, %{})
    assert {"ok", %{"id" => ^id}} = ask(ref, topic, "cancel", %{})
    wait(id, "cancelled")
  end

  @tag :capture_log
  test "a client that vanishes leaves its job alone" do
    test = self()

    {client, monitor} =
      spawn_monitor(fn ->
        open()
        {ref, "ok", _} = join("studio", %{})
        {"ok", %{"id" => id}} = ask(ref, "studio", "submit", long())
        send(test, {:id, id})
        Process.sleep(:infinity)
      end)

    assert_receive {:id, id}, 5_000
    wait(id, "running")
    Process.exit(client, :kill)
    assert_receive {:DOWN, ^monitor, _, _, _}
    Process.sleep(100)
    assert {:ok, %{"state" => "running"}} = Sango.get(id)
    Sango.cancel(id)
  end

  test "malformed frames are answered and the socket lives on" do
    for text <-
          [
            "",
            "null",
            "{}",
            "[]",
            "[1,2,3]",
            "[null,null,1,2,{}]",
            "\0",
            "[[[[[[[[",
            "\"join\"",
            "[null,\"1\",\"t\",\"e\""
          ] ++
            [
              "[null,[],\"t\",\"e\",{}]",
              ~s([null,null,"#{String.duplicate("t", 257)}","e",{}]),
              ~s([null,null,"t","e",{},{}]),
              <<"[null,null,\"", 0xFF, "\",\"e\",{}]">>,
              String.duplicate("[", 100_000)
            ] do
      raw(text)
      assert [nil, nil, "phoenix", "phx_reply", %{"status" => "error", "response" => response}] = next()
      assert response["error"]["code"] == "invalid_request"
    end

    raw(<<0, 1, 2, 255>>, :binary)
    assert [nil, nil, "phoenix", "phx_reply", %{"status" => "error"}] = next()

    for {topic, event, payload, code} <- [
          {"studio", "submit", %{}, "unknown_topic"},
          {"nowhere", "phx_join", %{}, "unknown_topic"},
          {"", "phx_join", %{}, "unknown_topic"},
          {"phoenix", "phx_join", %{}, "unknown_topic"},
          {"job:", "phx_join", %{}, "unknown_job"},
          {"job:{}", "phx_join", %{}, "unknown_job"},
          {"job:\0", "phx_join", %{}, "unknown_job"},
          {"job:0199b2c4-5c1e-7f3a-9a55-0c8f7f1d2e3b", "phx_join", %{"after" => 3}, "unknown_job"},
          {"phoenix", "dance", %{}, "unknown_topic"}
        ] do
      assert {"error", %{"error" => %{"code" => ^code, "status" => _}}} = ask(nil, topic, event, payload)
    end

    assert {_, "ok", _} = join("studio", "anything")

    for {event, payload, code} <- [
          {"dance", %{}, "invalid_request"},
          {"submit", nil, "invalid_request"},
          {"submit", [], "invalid_request"},
          {"submit", "text", "invalid_request"},
          {"submit", %{"kind" => "image", "prompt" => ""}, "invalid_option"},
          {"submit", %{"kind" => "image", "prompt" => "x", "image" => "??"}, "invalid_media"},
          {"submit", %{"kind" => "image", "prompt" => "x", "image" => 7}, "invalid_request"},
          {"submit", %{"__struct__" => "Elixir.Date"}, "invalid_request"},
          {"list", %{"limit" => "many"}, "invalid_request"},
          {"list", %{"limit" => 1.5}, "invalid_request"},
          {"list", %{"state" => "done"}, "invalid_option"},
          {"list", %{"state" => 7}, "invalid_request"},
          {"list", nil, "invalid_request"},
          {"list", [], "invalid_request"}
        ] do
      # Without a reference, as a person would type it.
      assert {"error", %{"error" => %{"code" => found}}} = ask(nil, "studio", event, payload)
      assert {event, payload, found} == {event, payload, code}
    end

    %{"id" => id} = drawn()

    for wrong <- [-1, 1.5, "1", %{}, 0x1_0000_0000_0000_0000] do
      assert {_, "error", %{"error" => %{"code" => "invalid_request"}}} =
               join("job:" <> id, %{"after" => wrong})
    end

    assert {_, "ok", _} = join("job:" <> id, %{"after" => nil})
    assert {"error", %{"error" => %{"code" => "invalid_request"}}} = ask(nil, "job:" <> id, "dance", %{})
    assert ask(nil, "phoenix", "heartbeat", %{}) == {"ok", %{}}
  end

  test "leaving and joining again" do
    assert ask(nil, "studio", "phx_leave", %{}) == {"ok", %{}}
    {first, "ok", _} = join("studio", %{})
    ref = push(first, "studio", "phx_leave", %{})
    assert until(fn [_, found | _] -> found == ref end) == [first, ref, "studio", "phx_reply", ok(%{})]
    assert next() == [first, first, "studio", "phx_close", %{}]
    assert {"error", %{"error" => %{"code" => "unknown_topic"}}} = ask(first, "studio", "list", %{})

    # Joined twice: the first join is closed, and its references are stale.
    {second, "ok", _} = join("studio", %{})
    third = to_string(System.unique_integer([:positive]))
    raw(Jason.encode!([third, third, "studio", "phx_join", %{}]))
    frames = [frame(["phx_close", "phx_reply"]), frame(["phx_close", "phx_reply"])]
    assert [second, second, "studio", "phx_close", %{}] in frames
    assert Enum.any?(frames, &match?([^third, ^third, _, "phx_reply", %{"status" => "ok"}], &1))
    assert {"error", _} = ask(second, "studio", "list", %{})
    assert {"ok", _} = ask(second, "studio", "phx_leave", %{})
    assert {"ok", _} = ask(third, "studio", "list", %{})
  end

  test "a socket joins a bounded number of topics" do
    %{"id" => id, "last_event" => last} = drawn()
    {:ok, %{"jobs" => [%{"id" => ^id} | _]}} = Sango.list(%{limit: 1})

    # The same picture many times over is many jobs.
    {:ok, %{"request" => request}} = Sango.get(id)

    request = %{
      "kind" => "image",
      "prompt" => request["prompt"],
      "options" => %{"seed" => request["options"]["seed"]}
    }

    ids =
      for _ <- 1..256 do
        {:ok, %{"id" => id, "state" => "finished"}} = Sango.submit(request, detached: true)
        id
      end

    for id <- ids, do: assert({_, "ok", _} = join("job:" <> id, %{"after" => last}))
    assert {_, "error", %{"error" => %{"code" => "too_many_topics", "status" => 429}}} = join("studio", %{})
    assert {"ok", _} = ask(nil, "job:" <> hd(ids), "phx_leave", %{})
    until(&match?([_, _, _, "phx_close", _], &1))
    assert {_, "ok", _} = join("studio", %{})
  end

  test "open sockets are counted until they end" do
    {client, monitor} =
      spawn_monitor(fn ->
        open()
        Process.sleep(:infinity)
      end)

    # Sockets of other tests come and go meanwhile.
    counted? = fn -> client in :sys.get_state(SangoWeb.Metrics) end
    assert eventually(counted?)
    assert GenServer.call(SangoWeb.Metrics, :sockets) >= 1
    Process.exit(client, :kill)
    assert_receive {:DOWN, ^monitor, _, _, _}
    assert eventually(fn -> not counted?.() end)
  end

  defp ok(response), do: %{"status" => "ok", "response" => response}
  defp frame(events), do: until(fn [_, _, _, event, _] -> event in events end)

  defp eventually(true?, tries \\ 200) do
    true?.() or
      (tries > 0 and
         (
           Process.sleep(10)
           eventually(true?, tries - 1)
         ))
  end
end
