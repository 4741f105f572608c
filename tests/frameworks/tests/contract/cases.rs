//! The cases, once. Each is run in every framework.

pub(crate) mod attaching;
pub(crate) mod concurrency;
pub(crate) mod fidelity;
pub(crate) mod identity;
pub(crate) mod probing;
pub(crate) mod refusals;

/// Every case, by group, with its title in the table: `$with! { $context; cases }`.
macro_rules! all_cases {
    ($with:ident, $context:tt) => {
        $with! {
            $context;
            refusals {
                a_missing_malformed_or_doubled_key_runs_nothing_and_claims_nothing:
                    "key missing, malformed, on two lines or joined in one: 400, nothing claimed",
                strict_and_uuid_only_are_settings: "strict and UUID-only keys",
                problems_carry_the_configured_type_and_link: "problem types and documentation link",
                refusals_have_the_apis_own_shape_and_are_not_kept:
                    "refusals in the API's own shape: key, mismatch, in flight, panic, store away",
                what_shapes_refusals_is_given_the_requests_head: "what shapes them is given the request's head",
                a_renderer_that_panics_is_answered_for: "where it panics, problem+json",
                a_hint_says_whether_a_retry_can_help: "retry hints on refusals and on replays of a 5xx",
                without_a_key_an_optional_operation_runs_unprotected_but_a_bad_key_is_refused:
                    "`required = false`",
                a_body_over_the_limit_is_413_and_claims_nothing: "body over the limit: 413, nothing claimed",
                an_early_refusal_reaches_a_client_that_writes_on:
                    "413 and 400 reach a client that writes 8 MB before it reads",
                an_empty_body_is_empty_however_its_length_is_written: "`Content-Length: 00` is no body",
                an_extractors_rejection_is_the_frameworks_own_and_keeps_nothing_claimed:
                    "rejected body: the framework's own answer, nothing stays claimed",
                authentication_comes_before_the_key_and_the_claim:
                    "authentication comes first, and claims nothing",
                statuses_that_say_not_processed_free_the_key_and_all_others_are_final:
                    "307, 308, 401, 408, 425, 429, 503 free the key; every other status is final",
                an_operation_lists_its_own_released_statuses: "`release(…)`",
                a_body_can_say_that_nothing_happened: "`idem::attempt().release()`",
                a_store_that_is_away_runs_nothing: "store away: 503 with `Retry-After`, nothing run",
            }
            concurrency {
                a_handler_that_hangs_is_stopped_at_its_deadline:
                    "a handler that hangs is stopped at its deadline: 503, and the retry runs",
                steps_run_once_across_a_deadline_and_a_released_status:
                    "steps run once, across a deadline and a status that frees the key",
                a_stream_that_hangs_is_cut_off_at_the_deadline: "a stream that hangs is cut off there",
                of_64_at_once_one_runs_and_63_wait_for_its_answer: "64 at once, `\"wait 5s\"`: one runs, 63 replays",
                of_64_at_once_one_runs_and_63_are_told_to_come_back:
                    "64 at once, `\"reject\"`: one runs, 63 get 409 with `Retry-After`",
                different_keys_do_not_wait_for_each_other: "different keys run at once",
                a_client_that_hangs_up_gets_its_answer_on_the_retry:
                    "a client that hangs up does not stop the body",
                a_client_that_hangs_up_does_not_stop_an_unprotected_body_either:
                    "nor without a key, nor when failing open",
                who_hangs_up_while_waiting_never_runs: "one that hangs up while it waits never runs",
                a_shutdown_waits_for_bodies_whose_clients_have_gone:
                    "a shutdown waits for bodies whose clients have gone",
                a_shutdown_waits_for_unprotected_bodies_too: "for those without a key, too",
                a_panic_is_500_and_the_next_attempt_follows_the_crash_rule: "a panic: 500, and attempt 2",
                after_a_panic_a_refusing_operation_waits_for_an_operator:
                    "`on_crash = \"refuse\"`: 409 until resolved",
            }
            fidelity {
                a_replay_has_the_first_ones_status_headers_and_body:
                    "a replay has the same status, headers and bytes",
                location_repeated_headers_and_foreign_bytes_survive:
                    "repeated, empty and non-ASCII headers",
                cookies_dates_and_hop_by_hop_headers_are_not_stored:
                    "no `Set-Cookie`, `Date`, hop-by-hop headers",
                what_is_too_large_reaches_the_first_caller_whole_and_never_runs_again:
                    "too large to be kept: whole for the first caller, then 409",
                what_is_streamed_is_given_back_whole: "streamed: flows to the first caller, and is replayed whole",
                a_stream_is_passed_on_as_it_comes_and_in_flight_until_it_has_ended:
                    "a stream waits for nothing; until it has ended, it is in flight",
                a_stream_whose_client_has_gone_is_recorded_to_its_end:
                    "a stream whose client has gone is recorded to its end",
                a_stream_that_breaks_off_is_never_run_again: "a stream that breaks off: as it came, then 409",
                a_stream_that_is_too_long_is_never_run_again: "a stream that is too long to be kept: as it came, then 409",
                an_endless_response_flows_and_is_never_run_again: "endless: flows, then 409",
            }
            attaching {
                who_attaches_is_given_what_has_been_sent_and_the_rest_as_it_comes:
                    "`in_flight = \"attach\"`: a duplicate is given what has been sent, and the rest as it comes",
                who_attaches_outlives_the_first_client: "the same when the first client has gone",
                another_request_does_not_attach: "another request under the key: 422",
                who_is_attached_to_what_breaks_off_is_cut_off:
                    "a stream that fails or is too long: the duplicate is cut off, then 409",
            }
            identity {
                another_request_under_a_key_is_a_mismatch_and_harms_nothing: "another request under the key: 422",
                another_request_under_a_key_is_a_mismatch_while_the_first_runs:
                    "the same while the first one runs",
                a_content_type_counts_and_not_its_spelling:
                    "`application/json` and `application/json; charset=utf-8` are one",
                an_upload_is_recognised_whatever_its_boundary: "a multipart upload is recognised by its parts",
                named_parts_count_in_place_of_the_body_and_of_nothing_else:
                    "`fingerprint(…)` replaces the body, and only that",
                a_nested_routers_prefix_counts: "a nested router's prefix counts",
                without_a_scope_a_caller_never_gets_anothers_answer:
                    "without `scope`, another `Authorization` gets no replay",
                without_a_scope_another_host_never_gets_the_answer:
                    "without `scope`, another host gets no replay",
                within_a_scope_each_tenant_has_its_own_keys_and_may_rotate_its_token:
                    "`scope`: keys of its own for each tenant",
                two_operations_never_share_a_record: "two operations share no record",
                a_quoted_and_a_bare_key_name_one_record: "a quoted and a bare key are one",
            }
            probing {
                a_probe_from_outside_finds_nothing: "a black-box probe (`idem-probe`) finds nothing",
            }
        }
    };
}
pub(crate) use all_cases;
